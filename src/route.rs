//! Split horizon: which route a name takes. The longest suffix wins, on label boundaries.

use std::collections::HashMap;

use crate::config::Config;
use crate::wire::name::suffixes;

/// Every claimed suffix and the route that claims it.
#[derive(Clone, Debug)]
pub struct Router {
    suffixes: HashMap<Box<[u8]>, u16>,
    /// The most labels of a claimed suffix, so that a deep name is not looked up suffix by suffix.
    deepest: usize,
}

impl Router {
    /// The router of a configuration's routes.
    pub fn new(config: &Config) -> Self {
        let mut claimed = HashMap::new();
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
