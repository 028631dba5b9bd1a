//! Split horizon: which way a name goes. The longest suffix wins, on label boundaries.

use foldhash::HashMap;

use crate::wire::name::{Name, suffixes};

/// Where a name goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the servers of the route with this number.
    Route(u16),
    /// Nowhere: it does not exist for those who ask.
    Denied,
}

/// Every claimed suffix and where it goes.
#[derive(Clone, Debug)]
pub struct Router {
    /// The configuration's, so nobody else can make them collide.
    suffixes: HashMap<Box<[u8]>, Way>,
    /// The most labels of a claimed suffix, so that a deep name is not looked up suffix by suffix.
    deepest: usize,
}

impl Router {
    /// The router of these claims; of two to one zone the later one holds.
    pub fn new<'z>(claims: impl IntoIterator<Item = (&'z Name, Way)>) -> Self {
        let mut router = Self { suffixes: HashMap::default(), deepest: 0 };
        for (zone, way) in claims {
            router.suffixes.insert(zone.as_wire().into(), way);
            router.deepest = router.deepest.max(zone.label_count());
        }
        router
    }

    /// All claims, in no order.
    pub fn ways(&self) -> impl Iterator<Item = (&[u8], Way)> {
        self.suffixes.iter().map(|(zone, way)| (&**zone, *way))
    }

    /// Where `name` (lower-case wire form) goes, and how many labels the suffix has that says so.
    pub fn find(&self, name: &[u8]) -> Option<(Way, usize)> {
        let labels = suffixes(name).count().saturating_sub(1);
        suffixes(name)
            .enumerate()
            .skip(labels.saturating_sub(self.deepest))
            .find_map(|(skipped, suffix)| Some((*self.suffixes.get(suffix)?, labels - skipped)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(zones: &[&str]) -> Router {
        let zones: Vec<Name> = zones.iter().map(|zone| zone.parse().expect(zone)).collect();
        Router::new(zones.iter().zip((0..).map(Way::Route)))
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
            let expected = (Way::Route(expected.0), expected.1);
            assert_eq!(router.find(name.as_wire()), Some(expected), "{name}");
        }
    }

    #[test]
    fn without_a_route_for_all_some_names_have_none() {
        let router = router(&["local"]);
        for (name, expected) in [("a.local", Some((0, 1))), ("a.b", None), (".", None)] {
            let name: Name = name.parse().expect(name);
            let expected = expected.map(|(route, depth)| (Way::Route(route), depth));
            assert_eq!(router.find(name.as_wire()), expected, "{name}");
        }
    }
}
