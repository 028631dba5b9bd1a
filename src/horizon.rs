//! What the clients of one view see: their routes, their static records, what is denied to them. Horizon 0 is that of all
//! who are of no view, or of one that shows the same.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Cache, Config, Record, Route, View};
use crate::local::records::Records;
use crate::route::{Router, Way};
use crate::upstream::Group;

/// What one view's clients see.
#[derive(Debug)]
pub struct Horizon {
    /// Which way a name goes.
    pub router: Router,
    /// Static records.
    pub records: Records,
    deny_private_addresses: Option<bool>,
    /// Of each route of the configuration, what its answers depend on, as a number.
    realms: Vec<u32>,
    /// What an answer depends on that leads through any of them.
    whole: u32,
}

impl Horizon {
    /// What all clients see, or those of a view.
    pub fn new(config: &Config, view: Option<&View>, groups: &[Arc<Group>]) -> Self {
        let inherit = view.is_none_or(|view| view.inherit);
        let first = config.views.iter().map(|view| view.routes.start).min().unwrap_or(config.routes.len());
        let common = (0..first).filter(|_| inherit);
        // Of two claims of one zone the later one holds.
        let own = view.map_or(0..0, |view| view.routes.clone());
        let zones = common.chain(own).filter_map(|number| Some((number, config.routes.get(number)?)));
        let zones =
            zones.flat_map(|(number, route)| route.zones.iter().map(move |zone| (zone, Way::Route(number as u16))));
        let denied = view.into_iter().flat_map(|view| &view.deny).map(|zone| (zone, Way::Denied));
        let router = Router::new(zones.chain(denied));
        let records: Vec<&Record> = records(config, view, &router);
        let deny_private_addresses = view.and_then(|view| view.deny_private_addresses);
        let realm = |route: &Route| {
            let group = groups.get(route.to).map(|group| group.realm());
            number(&(limits(&config.cache), route.negative_max_ttl, strips(deny_private_addresses, route), group))
        };
        let realms: Vec<u32> = config.routes.iter().map(realm).collect();
        let seen = |way: Way| match way {
            Way::Route(route) => realms.get(usize::from(route)).copied(),
            Way::Denied => None,
        };
        let mut ways: Vec<_> = router.ways().map(|(zone, way)| (zone.to_vec(), seen(way))).collect();
        ways.sort_unstable();
        let whole = number(&(
            ways,
            records.iter().map(|record| (&record.name, record.rtype, &record.rdata)).collect::<Vec<_>>(),
            limits(&config.cache),
        ));
        Self { records: Records::new(records), router, deny_private_addresses, realms, whole }
    }

    /// Whether private addresses are taken out of what comes through `route`.
    pub fn strips(&self, route: &Route) -> bool {
        strips(self.deny_private_addresses, route)
    }

    /// What an answer that came through `route` depends on; one that `follows` a CNAME depends on all routes.
    pub fn realm(&self, route: u16, follows: bool) -> u32 {
        if follows { self.whole } else { self.realms.get(usize::from(route)).copied().unwrap_or(0) }
    }
}

/// Whether a view's clients see something else than all others.
pub fn differs(view: &View) -> bool {
    let View { name: _, selector: _, inherit, routes, records, deny, deny_private_addresses, client_max_qps: _ } = view;
    !(*inherit && routes.is_empty() && records.is_empty() && deny.is_empty() && deny_private_addresses.is_none())
}

/// The records that are seen: a view's own hide those of all clients that have the same name, and so does what it denies.
fn records<'c>(config: &'c Config, view: Option<&'c View>, router: &Router) -> Vec<&'c Record> {
    let Some(view) = view else { return config.records.iter().collect() };
    let denied = |record: &Record| matches!(router.find(record.name.as_wire()), Some((Way::Denied, _)));
    let hidden = |record: &Record| view.records.iter().any(|own| own.name == record.name) || denied(record);
    let common = config.records.iter().filter(|record| view.inherit && !hidden(record));
    common.chain(&view.records).collect()
}

fn strips(all: Option<bool>, route: &Route) -> bool {
    all.unwrap_or(route.deny_private_addresses)
}

fn limits(cache: &Cache) -> (Duration, Duration) {
    (cache.max_ttl, cache.negative_max_ttl)
}

fn number(value: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() as u32
}
