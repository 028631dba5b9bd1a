//! Suggestions for a name that does not exist: the same name under another suffix, or a name that other clients see. Similar
//! names come from [`crate::jobs::existing_names`]; only those that this client can see count here.

use super::freshness::stale_window;
use super::state::Resolver;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clients::ClientIdentity;
use crate::effective_view::EffectiveViewId;
use crate::jobs::ClientStats;
use crate::jobs::account::FailedQuestion;
use crate::jobs::existing_names::MOST_LIKE;
use crate::route::Destination;
use crate::snapshot::Snapshot;
use crate::wire::cache_key::CacheKey;
use crate::wire::name::DisplayNoDot;
use crate::wire::{RrType, rcode, rtype};

/// Suggestion for a name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Diagnosis {
    /// Similar name that exists for this client (lower-case wire form).
    ExistsAs(Vec<u8>),
    /// Label of the route that other clients have for the name.
    OtherView(String),
}

/// Explains why a query failed: returns the class for machines, and a sentence. `like` are existing names that resemble the
/// failed one.
pub(crate) fn explain(
    resolver: &Resolver,
    snapshot: &Snapshot,
    account: &ClientStats,
    failure: &FailedQuestion,
    like: &[Box<[u8]>],
) -> (&'static str, String) {
    let (cause, sentence) = (failure.cause, account.sentence(failure));
    let hint = match cause {
        Cause::NoSuchName | Cause::SpecialUse | Cause::Pruned => {
            hint(resolver, snapshot, effective_view(snapshot, account), &failure.name, like)
        }
        _ => None,
    };
    match hint {
        Some(hint) => (hint.label(), format!("{sentence}; {}", hint.sentence())),
        None => (cause.label(), sentence),
    }
}

/// Returns a suggestion for a name that does not exist in an effective view: the first name of `like` that exists there, or
/// else a route of other views.
fn hint(
    resolver: &Resolver,
    snapshot: &Snapshot,
    effective_view: EffectiveViewId,
    name: &[u8],
    like: &[Box<[u8]>],
) -> Option<Diagnosis> {
    let seen = snapshot.effective_view(effective_view);
    let exists = |other: &&[u8]| {
        seen.has_records(other)
            || [rtype::A, rtype::AAAA]
                .into_iter()
                .any(|qtype| is_cached(resolver, snapshot, effective_view, other, qtype))
    };
    let found = like.iter().take(MOST_LIKE).map(|other| &**other).find(exists);
    found.map(|found| Diagnosis::ExistsAs(found.to_vec())).or_else(|| other_view(snapshot, effective_view, name))
}

/// Returns whether the cache has an answer with records.
fn is_cached(
    resolver: &Resolver,
    snapshot: &Snapshot,
    effective_view: EffectiveViewId,
    name: &[u8],
    qtype: RrType,
) -> bool {
    let key = CacheKey::of_stub(name, qtype, effective_view);
    let window = stale_window(snapshot);
    let now = resolver.now();
    let look = |entry: &mut crate::cache::Entry| {
        let at_home = entry.scope.route_under(snapshot.generation).is_some();
        let holds = matches!(entry.freshness(now, window), Freshness::Fresh(_) | Freshness::Stale);
        at_home && holds && entry.rcode == rcode::NOERROR && entry.has_answers()
    };
    resolver.cache.with(resolver.cache.hash(&key), &key, look).unwrap_or(false)
}

/// Returns the most specific route that other clients have for a name, if it is more specific than the route of this view.
fn other_view(snapshot: &Snapshot, effective_view: EffectiveViewId, name: &[u8]) -> Option<Diagnosis> {
    let depth = |id: EffectiveViewId| snapshot.effective_view(id).router.find(name);
    let own = depth(effective_view).map_or(0, |(_, depth)| depth);
    let others = snapshot.effective_views().filter(|other| *other != effective_view).filter_map(depth);
    let (route, _) = others
        .filter_map(|(way, depth)| match way {
            Destination::Route(route) => Some((route, depth)),
            Destination::Denied => None,
        })
        .filter(|(_, depth)| *depth > own)
        .max_by_key(|(_, depth)| *depth)?;
    Some(Diagnosis::OtherView(snapshot.route(route)?.label.clone()))
}

/// Returns the effective view of the client that the statistics belong to.
fn effective_view(snapshot: &Snapshot, account: &ClientStats) -> EffectiveViewId {
    let view = account.client.as_ref().map(|client| ClientIdentity::Known { client, since: None });
    let view = view.or(Some(ClientIdentity::Unknown(crate::clients::Unknown::Unassigned)));
    snapshot.sees(view.and_then(|identity| snapshot.views.of(&identity, account.address)))
}

impl Diagnosis {
    /// Returns the cause, as APIs show it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::ExistsAs(_) => "wrong_suffix",
            Self::OtherView(_) => "other_view",
        }
    }

    /// Returns the suggestion as a sentence.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::ExistsAs(name) => format!("wrong suffix? {} exists", DisplayNoDot(name)),
            Self::OtherView(route) => {
                format!("other clients have route \"{route}\" for it, the view of this client does not")
            }
        }
    }
}
