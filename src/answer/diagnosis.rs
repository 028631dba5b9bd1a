//! Suggestions for a name that does not exist: the same name under another suffix, or a name that other clients see. Similar
//! names come from [`crate::jobs::existing_names`]; only those that this client can see count here.

use super::freshness::stale_window;
use super::state::Resolver;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clients::ClientIdentity;
use crate::config::{Hints, ViewId};
use crate::effective_view::EffectiveViewId;
use crate::jobs::ClientStats;
use crate::jobs::account::FailedQuestion;
use crate::jobs::existing_names::{MOST_LIKE, is_suffix};
use crate::route::Destination;
use crate::snapshot::Snapshot;
use crate::wire::cache_key::CacheKey;
use crate::wire::name::{DisplayNoDot, suffixes};
use crate::wire::redact::without_addresses;
use crate::wire::{RrType, rcode, rtype};

/// Suggestion for a name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Diagnosis {
    /// Similar name that exists for this client (lower-case wire form).
    ExistsAs(Vec<u8>),
    /// Label of the route that other clients have for the name.
    OtherView(String),
}

/// Reader of explanations, who sees all or a part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// The operator, who sees everything.
    Operator,
    /// A client of this effective view.
    Client(Hints, EffectiveViewId),
}

impl Reader {
    /// Returns whether the reader sees other views, servers and the cache.
    pub(crate) fn sees_all(self) -> bool {
        !matches!(self, Self::Client(Hints::Own | Hints::Off, _))
    }

    /// Returns whether the reader may see the label of a route: not if only other views have such a route.
    pub(crate) fn sees_route(self, snapshot: &Snapshot, label: &str) -> bool {
        let Self::Client(Hints::Own | Hints::Off, seen) = self else { return true };
        let views = || snapshot.config.views.iter().enumerate();
        let is_seen = |route: usize| {
            let of_view = views().find(|(_, view)| view.routes.contains(&route));
            of_view.is_none_or(|(view, _)| snapshot.sees(Some(ViewId::of_index(view))) == seen)
        };
        let mut routes = (0..).zip(&*snapshot.labels).filter(|(_, other)| ***other == *label).peekable();
        // A label of an earlier configuration is the client's own.
        routes.peek().is_none() || routes.any(|(route, _)| is_seen(route))
    }
}

/// Explains why a query failed: returns the class for machines, and a sentence. `like` are existing names that resemble the
/// failed one.
pub(crate) fn explain(
    resolver: &Resolver,
    snapshot: &Snapshot,
    account: &ClientStats,
    (failure, like): (&FailedQuestion, &[Box<[u8]>]),
    reader: Reader,
) -> (&'static str, String) {
    let (cause, sentence) = match reader.sees_all() {
        true => (failure.cause, account.sentence(failure)),
        false => {
            let words = without_addresses(&failure.words).into();
            (failure.cause, account.sentence(&FailedQuestion { words, ..failure.clone() }))
        }
    };
    let effective_view = match reader {
        Reader::Client(_, effective_view) => effective_view,
        Reader::Operator => effective_view(snapshot, account),
    };
    let hint = match cause {
        Cause::NoSuchName | Cause::SpecialUse | Cause::Pruned => {
            hint(resolver, snapshot, effective_view, (&failure.name, like), reader.sees_all())
        }
        _ => None,
    };
    match hint {
        Some(hint) => (hint.label(), format!("{sentence}; {}", hint.sentence())),
        None => (cause.label(), sentence),
    }
}

/// Returns a suggestion for a name that does not exist in an effective view: the first name of `like` that exists there, or
/// else a route of other views. If not `all`, the suggestion depends on zones of this view only.
fn hint(
    resolver: &Resolver,
    snapshot: &Snapshot,
    effective_view: EffectiveViewId,
    (name, like): (&[u8], &[Box<[u8]>]),
    all: bool,
) -> Option<Diagnosis> {
    let seen = snapshot.effective_view(effective_view);
    let exists = |other: &&[u8]| {
        seen.has_records(other)
            || [rtype::A, rtype::AAAA]
                .into_iter()
                .any(|qtype| is_cached(resolver, snapshot, effective_view, other, qtype))
    };
    let is_seen = |other: &&[u8]| all || is_like(|zone| is_suffix(zone) && seen.router.claims(zone), name, other);
    let found = like.iter().take(MOST_LIKE).map(|other| &**other).find(|other| is_seen(other) && exists(other));
    let found = found.map(|found| Diagnosis::ExistsAs(found.to_vec()));
    found.or_else(|| other_view(snapshot, effective_view, name).filter(|_| all))
}

/// Returns whether `other` is `name` with a zone in place of its own zone, or behind the whole name.
fn is_like(is_zone: impl Fn(&[u8]) -> bool, name: &[u8], other: &[u8]) -> bool {
    suffixes(other).filter(|zone| is_zone(zone)).any(|zone| {
        let rest = other.strip_suffix(zone).and_then(|front| name.strip_prefix(front));
        rest.is_some_and(|rest| rest == [0] || is_zone(rest))
    })
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
