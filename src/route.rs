//! Split DNS: routes of names. The longest suffix on label boundaries takes precedence.

use std::sync::Arc;

use foldhash::HashMap;

pub(crate) use crate::config::RouteId;
use crate::wire::name::{Name, suffixes};

/// Destination of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The servers of this route.
    Route(RouteId),
    /// None: the name does not exist for these clients.
    Denied,
}

/// Claimed suffixes and their destinations. A view's own claims take precedence over the common ones, which it shares.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    common: Arc<Claims>,
    own: Option<Arc<Claims>>,
    /// Most labels of a claimed suffix; longer suffixes of a deep name are not looked up.
    deepest: usize,
}

/// Suffixes of one origin.
#[derive(Debug, Default)]
struct Claims {
    /// Keys come from the configuration, so clients cannot cause collisions.
    suffixes: HashMap<Box<[u8]>, Destination>,
    /// Most labels of a suffix.
    deepest: usize,
}

impl Router {
    /// Returns the router of these claims; if a zone is claimed twice, the later claim takes precedence.
    pub(crate) fn new<'z>(claims: impl IntoIterator<Item = (&'z Name, Destination)>) -> Self {
        let common = Arc::new(Claims::new(claims));
        Self { deepest: common.deepest, common, own: None }
    }

    /// Returns the router of `self`'s claims, shared, and of these claims, which take precedence.
    #[must_use]
    pub(crate) fn with<'z>(&self, claims: impl IntoIterator<Item = (&'z Name, Destination)>) -> Self {
        let own = Claims::new(claims);
        let deepest = self.deepest.max(own.deepest);
        Self { common: Arc::clone(&self.common), deepest, own: (!own.suffixes.is_empty()).then(|| Arc::new(own)) }
    }

    /// Returns all claims, in no order.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (&[u8], Destination)> {
        let own = self.own.as_deref();
        let is_hidden = move |zone: &[u8]| own.is_some_and(|own| own.suffixes.contains_key(zone));
        let common = self.common.suffixes.iter().filter(move |(zone, _)| !is_hidden(zone));
        self.own_ways().chain(common.map(|(zone, destination)| (&**zone, *destination)))
    }

    /// Returns the claims that are not shared, in no order.
    pub(crate) fn own_ways(&self) -> impl Iterator<Item = (&[u8], Destination)> {
        self.own.iter().flat_map(|own| &own.suffixes).map(|(zone, destination)| (&**zone, *destination))
    }

    /// Returns the destination of `name` (lower-case wire form), and the number of labels of the matching suffix.
    pub(crate) fn find(&self, name: &[u8]) -> Option<(Destination, usize)> {
        let labels = suffixes(name).count().saturating_sub(1);
        suffixes(name)
            .enumerate()
            .skip(labels.saturating_sub(self.deepest))
            .find_map(|(skipped, suffix)| Some((self.destination(suffix)?, labels - skipped)))
    }

    /// Returns whether this suffix itself is claimed.
    pub(crate) fn claims(&self, suffix: &[u8]) -> bool {
        self.destination(suffix).is_some()
    }

    /// Returns whether the common claims are the same in memory.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.common, &other.common)
    }

    fn destination(&self, suffix: &[u8]) -> Option<Destination> {
        let own = self.own.as_ref().and_then(|own| own.suffixes.get(suffix));
        own.or_else(|| self.common.suffixes.get(suffix)).copied()
    }
}

impl Claims {
    fn new<'z>(claims: impl IntoIterator<Item = (&'z Name, Destination)>) -> Self {
        let mut all = Self::default();
        for (zone, destination) in claims {
            all.suffixes.insert(zone.as_wire().into(), destination);
            all.deepest = all.deepest.max(zone.label_count());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(index: usize) -> Destination {
        Destination::Route(RouteId::of_index(index).expect("a small one"))
    }

    fn router(zones: &[&str]) -> Router {
        let zones: Vec<Name> = zones.iter().map(|zone| zone.parse().expect(zone)).collect();
        Router::new(zones.iter().zip((0..).map(to)))
    }

    #[test]
    fn the_longest_suffix_on_a_label_boundary() {
        let router = router(&[".", "corp.example", "eu.corp.example", "local"]);
        for (name, expected) in [
            ("a.eu.corp.example", (2, 3)),
            ("eu.corp.example", (2, 3)),
            ("us.corp.example", (1, 2)),
            ("corp.example", (1, 2)),
            ("notcorp.example", (0, 0)),
            ("example", (0, 0)),
            ("a.b.c.d.e.f.local", (3, 1)),
            (".", (0, 0)),
        ] {
            let name: Name = name.parse().expect(name);
            let expected = (to(expected.0), expected.1);
            assert_eq!(router.find(name.as_wire()), Some(expected), "{name}");
        }
    }

    #[test]
    fn without_a_route_for_all_some_names_have_none() {
        let router = router(&["local"]);
        for (name, expected) in [("a.local", Some((0, 1))), ("a.b", None), (".", None)] {
            let name: Name = name.parse().expect(name);
            let expected = expected.map(|(route, depth)| (to(route), depth));
            assert_eq!(router.find(name.as_wire()), expected, "{name}");
        }
    }

    #[test]
    fn what_a_view_adds_lies_over_what_all_have() {
        let name = |text: &str| text.parse::<Name>().expect(text);
        let common = router(&[".", "corp.example", "eu.corp.example"]);
        let (corp, deep) = (name("corp.example"), name("a.b.eu.corp.example"));
        let view = common.with([(&corp, to(7)), (&deep, Destination::Denied), (&corp, Destination::Denied)]);
        for (asked, seen, by_all) in [
            ("x.corp.example", (Destination::Denied, 2), (to(1), 2)),
            ("x.eu.corp.example", (to(2), 3), (to(2), 3)),
            ("x.a.b.eu.corp.example", (Destination::Denied, 5), (to(2), 3)),
            ("example", (to(0), 0), (to(0), 0)),
        ] {
            let wire = name(asked);
            assert_eq!(view.find(wire.as_wire()), Some(seen), "{asked}");
            assert_eq!(common.find(wire.as_wire()), Some(by_all), "{asked}");
        }
        let mut ways: Vec<_> = view.ways().collect();
        ways.sort_by_key(|(zone, _)| zone.len());
        let denied = [(corp.as_wire(), Destination::Denied), (deep.as_wire(), Destination::Denied)];
        let eu = name("eu.corp.example");
        assert_eq!(ways, [(&b"\0"[..], to(0)), denied[0], (eu.as_wire(), to(2)), denied[1]]);
        assert!(view.shares_with(&common) && view.with([]).shares_with(&common));
    }
}
