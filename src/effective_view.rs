//! Effective views: the routes, static records and denials that apply to the clients of one view. The first one applies to
//! clients of no view, and of views that change nothing.
//!
//! A view shares what it inherits with all others, whatever its size; its own part takes precedence.

use std::cell::OnceCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{CacheConfig, Config, RecordConfig, Route, RouteId, View};
use crate::local::records::{RecordContext, Records, StaticAnswer};
use crate::route::{Destination, Router};
use crate::upstream::Group;
use crate::wire::RrType;
pub use crate::wire::cache_key::EffectiveViewId;
use crate::wire::name::Name;

/// Routes, static records and denials that apply to a view's clients.
#[derive(Debug)]
pub struct EffectiveView {
    pub(crate) router: Router,
    /// Static records, including those that the view denies.
    records: Records,
    /// True if the view denies any zone.
    denies: bool,
    deny_private_addresses: Option<bool>,
    filter_types: Vec<RrType>,
    scope_fingerprints: Arc<[u32]>,
    /// Fingerprint of all routes and records, for an answer that depends on all of them.
    whole: u32,
}

/// Parts that the effective views of one configuration share.
pub struct Common<'c> {
    config: &'c Config,
    groups: &'c [Arc<Group>],
    router: Router,
    records: Records,
    /// Fingerprints by the view's `deny_private_addresses`: not set, false, true.
    answers: [OnceCell<Answers>; 3],
}

/// Fingerprints of what answers depend on.
#[derive(Debug)]
struct Answers {
    /// Fingerprint of an answer that came through a route, for each route of the configuration.
    scope_fingerprints: Arc<[u32]>,
    /// Fingerprint of everything that clients of no view see.
    whole: u64,
}

impl<'c> Common<'c> {
    /// Returns what all clients of a configuration share.
    pub fn new(config: &'c Config, groups: &'c [Arc<Group>]) -> Self {
        let first = config.views.iter().map(|view| view.routes.start).min().unwrap_or(config.routes.len());
        let router = Router::new(claims(config, 0..first));
        Self {
            config,
            groups,
            router,
            records: Records::new(&config.records, &config.rewrites),
            answers: Default::default(),
        }
    }

    /// Returns the effective view of all clients, or of a view.
    pub fn effective_view(&self, view: Option<&View>) -> EffectiveView {
        let deny_private_addresses = view.and_then(|view| view.deny_private_addresses);
        let answers = self.answers(deny_private_addresses);
        let inherit = view.is_none_or(|view| view.inherit);
        let (router, records, below) = match inherit {
            true => (self.router.clone(), self.records.clone(), answers.whole),
            false => (Router::new([]), Records::default(), number(&limits(&self.config.cache))),
        };
        // If a zone is claimed twice, the later claim takes precedence.
        let own = view.map_or(0..0, |view| view.routes.clone());
        let denied = view.into_iter().flat_map(|view| &view.deny).map(|zone| (zone, Destination::Denied));
        let router = router.with(claims(self.config, own).chain(denied));
        let own = view.map_or(&[][..], |view| &view.records);
        let mut ways: Vec<_> = router.own_ways().map(|(zone, destination)| (zone, answers.seen(destination))).collect();
        ways.sort_unstable();
        let filter_types = view.map(|view| view.filter_types.clone()).unwrap_or_default();
        let whole = number(&(below, ways, own.iter().map(identity).collect::<Vec<_>>(), &filter_types)) as u32;
        EffectiveView {
            records: records.with(own),
            denies: view.is_some_and(|view| !view.deny.is_empty()),
            deny_private_addresses,
            filter_types,
            scope_fingerprints: Arc::clone(&answers.scope_fingerprints),
            whole,
            router,
        }
    }

    fn answers(&self, deny_private_addresses: Option<bool>) -> &Answers {
        let number = deny_private_addresses.map_or(0, |deny| 1 + usize::from(deny));
        self.answers[number].get_or_init(|| Answers::new(self, deny_private_addresses))
    }
}

impl Answers {
    fn new(common: &Common<'_>, deny_private_addresses: Option<bool>) -> Self {
        let cache = &common.config.cache;
        let scope_fingerprint = |route: &Route| {
            let of_group = |group: usize| common.groups.get(group).map(|group| group.scope_fingerprint());
            // Exhaustive, so that a new key does not compile until it is decided whether cached answers depend on it. The router
            // decides which route a name has, and `cluster` is applied before the cache is looked up.
            let Route {
                negative_max_ttl,
                filter_types,
                deny_private_names,
                deny_private_addresses: _, // in `strips`
                fallthrough,
                to,
                zones: _,
                label: _,
                cluster: _,
            } = route;
            let strips = (strips(deny_private_addresses, route), deny_private_names);
            let others = |to: usize| common.config.routes.iter().filter(move |other| other.to == to);
            let fallthrough = fallthrough.as_ref().map(|next| {
                let denied = others(next.to)
                    .map(|other| (self::strips(deny_private_addresses, other), other.deny_private_names));
                (
                    of_group(next.to),
                    next.nodata,
                    denied.fold((false, false), |all, one| (all.0 || one.0, all.1 || one.1)),
                )
            });
            number(&(limits(cache), negative_max_ttl, filter_types, strips, of_group(*to), fallthrough)) as u32
        };
        let mut answers =
            Self { scope_fingerprints: common.config.routes.iter().map(scope_fingerprint).collect(), whole: 0 };
        let mut ways: Vec<_> =
            common.router.ways().map(|(zone, destination)| (zone, answers.seen(destination))).collect();
        ways.sort_unstable();
        let records: Vec<_> = common.config.records.iter().map(identity).collect();
        answers.whole = number(&(ways, records, &common.config.rewrites, limits(cache)));
        answers
    }

    fn seen(&self, destination: Destination) -> Option<u32> {
        match destination {
            Destination::Route(route) => self.scope_fingerprints.get(route.index()).copied(),
            Destination::Denied => None,
        }
    }
}

impl EffectiveView {
    /// Returns whether `name` (lower-case wire form) has static records. A view's own records hide common records of the same
    /// name, and so do its denials.
    pub fn has_records(&self, name: &[u8]) -> bool {
        self.records.has(name, self)
    }

    /// Returns the names of static records that are shared, in no order.
    pub fn record_names(&self) -> impl Iterator<Item = &[u8]> {
        self.records.names()
    }

    /// Returns the names of static records of this view alone, in no order.
    pub fn own_record_names(&self) -> impl Iterator<Item = &[u8]> {
        self.records.own_names()
    }

    /// Returns the static answer to a question: see [`Records::find`].
    pub fn find_records(&self, name: &[u8], qtype: RrType, qclass: u16) -> Option<StaticAnswer> {
        self.records.find(name, qtype, qclass, self)
    }

    /// Returns whether the inherited parts are the same in memory.
    pub fn shares_with(&self, other: &Self) -> bool {
        self.router.shares_with(&other.router) && self.records.shares_with(&other.records)
    }

    /// Returns whether private addresses are removed from answers through `route`.
    pub fn strips(&self, route: &Route) -> bool {
        strips(self.deny_private_addresses, route)
    }

    /// Returns whether questions of this type through `route` are answered with "no data".
    pub fn filters(&self, route: &Route, qtype: RrType) -> bool {
        route.filter_types.contains(&qtype) || self.filter_types.contains(&qtype)
    }

    /// Returns the fingerprint of an answer that came through `route`; an answer that `follows` a CNAME depends on all routes.
    pub fn scope_fingerprint(&self, route: RouteId, follows: bool) -> u32 {
        if follows { self.whole } else { self.scope_fingerprints.get(route.index()).copied().unwrap_or(0) }
    }
}

impl RecordContext for EffectiveView {
    fn denies(&self, name: &[u8]) -> bool {
        self.denies && matches!(self.router.find(name), Some((Destination::Denied, _)))
    }

    fn depth(&self, name: &[u8]) -> usize {
        self.router.find(name).map_or(0, |(_, depth)| depth)
    }
}

/// Returns whether a view changes anything for its clients.
pub fn differs(view: &View) -> bool {
    // `hints` and `client_max_qps` change no answer: views that differ in them alone share the cache.
    let View { name: _, selector: _, client_max_qps: _, hints: _, inherit, routes, records, deny, .. } = view;
    let View { deny_private_addresses, filter_types, .. } = view;
    let same_names = *inherit && routes.is_empty() && records.is_empty() && deny.is_empty();
    !(same_names && deny_private_addresses.is_none() && filter_types.is_empty())
}

/// Returns the claims of these routes.
fn claims(config: &Config, routes: std::ops::Range<usize>) -> impl Iterator<Item = (&Name, Destination)> {
    let routes = routes.filter_map(|number| Some((RouteId::of_index(number)?, config.routes.get(number)?)));
    routes.flat_map(|(number, route)| route.zones.iter().map(move |zone| (zone, Destination::Route(number))))
}

/// Returns the content of a record without its TTL, which its answers contain.
fn identity(record: &RecordConfig) -> (&Name, RrType, &[u8]) {
    (&record.name, record.rtype, &record.rdata)
}

fn strips(all: Option<bool>, route: &Route) -> bool {
    all.unwrap_or(route.deny_private_addresses)
}

fn limits(cache: &CacheConfig) -> (Duration, Duration) {
    // Exhaustive, as above. `rotate` is applied to each entry when it is revalidated.
    let CacheConfig { max_ttl, negative_max_ttl, memory: _, stale: _, failure_max_ttl: _, prefetch: _, rotate: _ } =
        cache;
    (*max_ttl, *negative_max_ttl)
}

fn number(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
