//! Split horizon: which route a name takes. The longest suffix wins, on label boundaries.

use foldhash::HashMap;

use crate::config::Config;
use crate::wire::name::suffixes;

/// Every claimed suffix and the route that claims it.
#[derive(Clone, Debug)]
pub struct Router {
    /// The configuration's, so nobody else can make them collide.
    suffixes: HashMap<Box<[u8]>, u16>,
    /// The most labels of a claimed suffix, so that a deep name is not looked up suffix by suffix.
    deepest: usize,
}

impl Router {
    /// The router of a configuration's routes.
    pub fn new(config: &Config) -> Self {
        let mut claimed = HashMap::default();
        let mut deepest = 0;
        for (index, route) in (0..).zip(&config.routes) {
            for zone in &route.zones {
                claimed.insert(zone.as_wire().into(), index);
                deepest = deepest.max(zone.label_count());
            }
        }
        Self { suffixes: claimed, deepest }
    }

    /// The index of the route for `name` (lower-case wire form), and how many labels its suffix has.
    pub fn find(&self, name: &[u8]) -> Option<(u16, usize)> {
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
    use crate::wire::name::Name;

    fn router(zones: &[&str]) -> Router {
        let zones = zones.iter().map(|zone| zone.parse::<Name>().expect(zone));
        let deepest = zones.clone().map(|zone| zone.label_count()).max().unwrap_or(0);
        Router { suffixes: zones.map(|zone| zone.as_wire().into()).zip(0..).collect(), deepest }
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
            assert_eq!(router.find(name.as_wire()), Some(expected), "{name}");
        }
    }

    #[test]
    fn without_a_route_for_all_some_names_have_none() {
        let router = router(&["local"]);
        for (name, expected) in [("a.local", Some((0, 1))), ("a.b", None), (".", None)] {
            let name: Name = name.parse().expect(name);
            assert_eq!(router.find(name.as_wire()), expected, "{name}");
        }
    }
}
