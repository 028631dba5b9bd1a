//! What a name that does not exist may have been meant for: the same one under another suffix, or one that other clients
//! see.

use super::Resolver;
use crate::cache::entry::Worth;
use crate::clients::Who;
use crate::jobs::Account;
use crate::jobs::account::Failure;
use crate::jobs::cause::Cause;
use crate::route::Way;
use crate::snapshot::Snapshot;
use crate::wire::name::{Bare, MAX_NAME, suffixes};
use crate::wire::query::Key;
use crate::wire::{rcode, rtype};

/// The least labels of a zone that is tried as a suffix: `.` and `com` would make anything of anything.
const LEAST_LABELS: usize = 2;

/// What may have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// This name exists, as far as this client can see (lower-case wire form).
    ExistsAs(Vec<u8>),
    /// Other clients have a route for it: its label.
    OtherView(String),
}

/// Why a query failed: the class for machines, and the sentence.
pub fn explain(
    resolver: &Resolver,
    snapshot: &Snapshot,
    account: &Account,
    failure: &Failure,
) -> (&'static str, String) {
    let (cause, sentence) = (failure.cause, account.sentence(failure));
    let hint = match cause {
        Cause::NoSuchName => hint(resolver, snapshot, horizon(snapshot, account), &failure.name),
        _ => None,
    };
    match hint {
        Some(hint) => (hint.label(), format!("{sentence}; {}", hint.sentence())),
        None => (cause.label(), sentence),
    }
}

/// What may have been meant by a name that does not exist for those who see a horizon.
pub fn hint(resolver: &Resolver, snapshot: &Snapshot, horizon: u16, name: &[u8]) -> Option<Hint> {
    let seen = snapshot.horizon(horizon);
    let zones: Vec<&[u8]> = seen.router.ways().filter(|(_, way)| *way != Way::Denied).map(|(zone, _)| zone).collect();
    let candidates = candidates(name, zones.into_iter());
    let exists = |candidate: &Vec<u8>| {
        seen.has_records(candidate)
            || [rtype::A, rtype::AAAA].into_iter().any(|qtype| is_cached(resolver, snapshot, horizon, candidate, qtype))
    };
    // The shortest, of equals the first: the same whatever order the zones have.
    let found = candidates.into_iter().filter(exists).min_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    found.map(Hint::ExistsAs).or_else(|| other_view(snapshot, horizon, name))
}

/// Names that this one would be under other suffixes: behind it, or in place of its own.
fn candidates<'z>(name: &[u8], zones: impl Iterator<Item = &'z [u8]> + Clone) -> Vec<Vec<u8>> {
    let zones = zones.filter(|zone| suffixes(zone).count() > LEAST_LABELS && !zone.ends_with(b"\x04arpa\x00"));
    let fronts = suffixes(name).filter(|suffix| suffix.len() == 1 || zones.clone().any(|zone| zone == *suffix));
    let fronts: Vec<&[u8]> =
        fronts.map(|suffix| &name[..name.len() - suffix.len()]).filter(|front| !front.is_empty()).collect();
    let joined = zones.flat_map(|zone| fronts.iter().map(move |front| [*front, zone].concat()));
    joined.filter(|candidate| candidate != name && candidate.len() <= MAX_NAME).collect()
}

/// Whether the cache has an answer with records.
fn is_cached(resolver: &Resolver, snapshot: &Snapshot, horizon: u16, name: &[u8], qtype: u16) -> bool {
    let key = Key::of_stub(name, qtype, horizon);
    let window = super::stale_window(snapshot);
    let now = resolver.now();
    let look = |entry: &mut crate::cache::Entry| {
        let at_home = entry.home.generation == snapshot.generation;
        let holds = matches!(entry.worth(now, window), Worth::Fresh(_) | Worth::Stale);
        at_home && holds && entry.rcode == rcode::NOERROR && entry.has_answers()
    };
    resolver.cache.with(resolver.cache.hash(&key), &key, look).unwrap_or(false)
}

/// The route that others have for a name, if it is more particular than this horizon's.
fn other_view(snapshot: &Snapshot, horizon: u16, name: &[u8]) -> Option<Hint> {
    let depth = |number: u16| snapshot.horizon(number).router.find(name);
    let own = depth(horizon).map_or(0, |(_, depth)| depth);
    let others = (0..snapshot.horizons()).filter(|other| *other != horizon).filter_map(depth);
    let (route, _) = others
        .filter_map(|(way, depth)| match way {
            Way::Route(route) => Some((route, depth)),
            Way::Denied => None,
        })
        .filter(|(_, depth)| *depth > own)
        .max_by_key(|(_, depth)| *depth)?;
    Some(Hint::OtherView(snapshot.route(route)?.label.clone()))
}

/// What the client of an account sees.
fn horizon(snapshot: &Snapshot, account: &Account) -> u16 {
    let view = account.client.as_ref().map(|client| Who::Known { client, since: None });
    let view = view.or(Some(Who::Unknown(crate::clients::Unknown::Nobody)));
    snapshot.sees(view.and_then(|who| snapshot.views.of(&who, account.address)))
}

impl Hint {
    /// The cause, as APIs show it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ExistsAs(_) => "wrong_suffix",
            Self::OtherView(_) => "other_view",
        }
    }

    /// The same for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::ExistsAs(name) => format!("wrong suffix? {} exists", Bare(name)),
            Self::OtherView(route) => {
                format!("other clients have route \"{route}\" for it, the view of this one has not")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    #[test]
    fn other_suffixes() {
        let wire = |name: &str| name.parse::<Name>().expect(name).as_wire().to_vec();
        let zones = [".", "com", "corp.example", "eu.corp.example", "10.in-addr.arpa"].map(wire);
        for (name, expected) in [
            ("git", &["git.corp.example", "git.eu.corp.example"][..]),
            (
                "git.corp.example",
                &["git.corp.example.corp.example", "git.corp.example.eu.corp.example", "git.eu.corp.example"],
            ),
            (
                "git.eu.corp.example",
                &[
                    "git.corp.example",
                    "git.eu.corp.example.corp.example",
                    "git.eu.corp.example.eu.corp.example",
                    "git.eu.eu.corp.example",
                ],
            ),
            ("corp.example", &["corp.example.corp.example", "corp.example.eu.corp.example"]),
        ] {
            let mut found: Vec<String> = candidates(&wire(name), zones.iter().map(Vec::as_slice))
                .iter()
                .map(|candidate| Bare(candidate).to_string())
                .collect();
            found.sort();
            assert_eq!(found, expected, "{name}");
        }
    }
}
