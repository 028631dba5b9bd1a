//! One configuration made ready to answer from. Immutable: a reload builds another and swaps the pointer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Admission;
use crate::cache::entry::{CacheScope, Limits};
use crate::clients::{ClientIdentity, StaticClients, Views};
use crate::config::server::LONGEST_IDENTITY;
use crate::config::{Config, Route, RouteId, ServerAddress, View, ViewId};
use crate::horizon::{self, Common, Horizon, HorizonId};
use crate::local::cluster::Cluster;
use crate::local::pruning::Pruning;
use crate::local::special::Special;
use crate::metrics::Metrics;
use crate::route::Way;
use crate::upstream::{Group, Server};
use crate::wire::query::Key;
use crate::wire::rtype;

/// A configuration, its tables, and its upstream groups.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with each reload.
    pub generation: u32,
    /// What all of it was made from. The keys that only a start reads have the values of the start, in every snapshot.
    pub config: Config,
    /// Who may ask.
    pub admission: Admission,
    /// Who may look at the admin pages.
    pub may_watch: Admission,
    /// Who the configuration says that clients are.
    pub clients: Arc<StaticClients>,
    /// Which view a client is of.
    pub views: Views,
    /// What routes are called, as [`Config::routes`] counts them; the same as in the previous snapshot if none changed.
    pub labels: Arc<[Arc<str>]>,
    /// What the clients of each view see.
    sees: Vec<HorizonId>,
    /// What clients see; the first is for those who are of no view.
    horizons: Vec<Horizon>,
    /// Special-use names.
    pub special: Special,
    /// Which node this is, for whoever asks (`[server] identity`); empty: that is not told.
    pub identity: Box<str>,
    /// The groups, as [`Route::to`] counts them.
    pub groups: Vec<Arc<Group>>,
    /// Where each of them is, by its name.
    by_name: HashMap<Box<str>, usize>,
    /// The cluster's domain of each route that has one: few have, and it is large.
    clusters: Vec<Option<Box<Cluster>>>,
}

impl Snapshot {
    /// The first snapshot, or the one after `previous`: servers that both have keep their health.
    pub fn new(config: Config, metrics: &Metrics, previous: Option<&Self>) -> Self {
        let groups = groups(&config, metrics, previous);
        let generation = previous.map_or(0, |previous| previous.generation.wrapping_add(1));
        let common = Common::new(&config, &groups);
        let mut horizons = vec![common.horizon(None)];
        let mut sees = Vec::new();
        for view in &config.views {
            // Those who see the same share what is cached.
            // There are few views.
            let own = HorizonId::of_index(horizons.len() as u16);
            sees.push(if horizon::differs(view) { own } else { HorizonId::COMMON });
            if horizon::differs(view) {
                horizons.push(common.horizon(Some(view)));
            }
        }
        drop(common);
        let is_same = |labels: &[Arc<str>]| labels.iter().map(|label| &**label).eq(labels_of(&config));
        let labels = previous.map(|previous| &previous.labels).filter(|labels| is_same(labels));
        Self {
            generation,
            clients: Arc::new(StaticClients::new(&config.clients)),
            labels: labels.map_or_else(|| labels_of(&config).map(Arc::from).collect(), Arc::clone),
            by_name: config.upstreams.iter().map(|upstream| upstream.name.as_str().into()).zip(0..).collect(),
            admission: Admission::new(&config.server.allow),
            may_watch: Admission::new(&config.admin.allow),
            views: Views::new(&config.views, generation),
            sees,
            horizons,
            special: Special::new(),
            identity: identity(&config).into(),
            clusters: config
                .routes
                .iter()
                .map(|route| {
                    let pruning = previous.and_then(|previous| previous.pruning(&config, route)).unwrap_or_default();
                    route.cluster.as_ref().map(|cluster| Box::new(Cluster::new(cluster, pruning)))
                })
                .collect(),
            groups,
            config,
        }
    }

    /// What is known of the cluster's domain of a route, if this snapshot has the same one.
    fn pruning(&self, config: &Config, route: &Route) -> Option<Arc<Pruning>> {
        let servers =
            |config: &Config, route: &Route| config.upstreams.get(route.to).map(|group| group.servers.clone());
        let is_same = |(_, old): &(&Route, &Cluster)| Some(&old.config) == route.cluster.as_ref();
        let clusters = self.config.routes.iter().zip(&self.clusters);
        let mut same = clusters.filter_map(|(old, cluster)| Some((old, cluster.as_deref()?))).filter(is_same);
        let found = same.find(|(old, _)| servers(&self.config, old) == servers(config, route));
        found.map(|(_, cluster)| Arc::clone(&cluster.pruning))
    }

    /// What the clients of a view see, or of none.
    #[inline]
    pub fn sees(&self, view: Option<ViewId>) -> HorizonId {
        view.and_then(|view| self.sees.get(view.index()).copied()).unwrap_or(HorizonId::COMMON)
    }

    /// All horizons, the common one first.
    pub fn horizons(&self) -> impl ExactSizeIterator<Item = HorizonId> {
        (0..self.horizons.len() as u16).map(HorizonId::of_index)
    }

    /// The view that a client is of.
    pub fn view(&self, who: &ClientIdentity<'_>, address: IpAddr) -> Option<&View> {
        self.config.views.get(self.views.of(who, address)?.index())
    }

    /// The horizon with this id; the common one if there is none.
    pub fn horizon(&self, id: HorizonId) -> &Horizon {
        // There is always the first.
        self.horizons.get(id.index()).unwrap_or(&self.horizons[0])
    }

    /// The settings of that route.
    pub fn route(&self, route: RouteId) -> Option<&Route> {
        self.config.routes.get(route.index())
    }

    /// The upstream group of that route.
    pub fn group(&self, route: RouteId) -> Option<&Arc<Group>> {
        self.groups.get(self.route(route)?.to)
    }

    /// Whether this server is one of its group.
    pub fn has_server(&self, server: &Arc<Server>) -> bool {
        let group = self.by_name.get(server.group.as_str()).and_then(|at| self.groups.get(*at));
        group.is_some_and(|group| group.servers.load().iter().any(|other| Arc::ptr_eq(other, server)))
    }

    /// The cluster's domain among that route's zones.
    pub fn cluster(&self, route: RouteId) -> Option<&Cluster> {
        self.clusters.get(route.index())?.as_deref()
    }

    /// The bounds of what that route's answers may live.
    pub fn limits(&self, route: RouteId) -> Limits {
        let cache = &self.config.cache;
        let negative = self.route(route).and_then(|route| route.negative_max_ttl).unwrap_or(cache.negative_max_ttl);
        Limits { max_ttl: seconds(cache.max_ttl), negative_max_ttl: seconds(negative), rotate: cache.rotate }
    }

    /// Where an answer belongs that came through `route` for those who see `horizon`. One that `follows` a CNAME depends
    /// on all routes.
    pub fn home(&self, horizon: HorizonId, route: RouteId, follows: bool) -> CacheScope {
        CacheScope::new(self.generation, route, self.horizon(horizon).scope_fingerprint(route, follows))
    }

    /// Where an entry of an earlier configuration belongs now; none if it may answer no more for `key`, because its name
    /// is static, special or denied now, takes another route, or is asked of others. With it comes the route.
    #[cold]
    pub fn revalidate_scope(&self, home: CacheScope, key: &Key) -> Option<(CacheScope, RouteId)> {
        let (name, horizon) = (key.name(), self.horizons.get(key.horizon().index())?);
        let (Way::Route(route), depth) = horizon.router.find(name)? else { return None };
        let is_filtered = self.route(route).is_some_and(|route| horizon.filters(route, key.qtype()));
        if is_filtered || horizon.has_records(name) || self.special.find(name, rtype::A, depth).is_some() {
            return None;
        }
        [false, true]
            .map(|follows| self.home(key.horizon(), route, follows))
            .into_iter()
            .find(|now| now.scope_fingerprint == home.scope_fingerprint)
            .map(|now| (now, route))
    }

    /// Where an entry belongs under this configuration, and the route that it takes; none if it may answer no more for
    /// `key`.
    #[inline]
    pub fn home_now(&self, home: CacheScope, key: &Key) -> Option<(CacheScope, RouteId)> {
        match home.route_under(self.generation) {
            Some(route) => Some((home, route)),
            None => self.revalidate_scope(home, key),
        }
    }
}

/// The name that the configuration gives, else the node's, else the host's.
fn identity(config: &Config) -> String {
    let node = || config.kubernetes.node.clone().or_else(|| std::env::var("NODE_NAME").ok());
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let identity = config.server.identity.clone().or_else(node).unwrap_or_else(host);
    Some(identity.trim()).filter(|identity| identity.len() <= LONGEST_IDENTITY).unwrap_or_default().to_owned()
}

fn labels_of(config: &Config) -> impl Iterator<Item = &str> {
    config.routes.iter().map(|route| route.label.as_str())
}

/// The groups of `config`; servers that were there before are the same ones, with all that is known of them.
fn groups(config: &Config, metrics: &Metrics, previous: Option<&Snapshot>) -> Vec<Arc<Group>> {
    let before: HashMap<&str, &Arc<Group>> =
        previous.iter().flat_map(|old| &old.groups).map(|group| (group.config.name.as_str(), group)).collect();
    let build = |upstream: &crate::config::Upstream| {
        if upstream.max_qps.is_some() {
            // A rate needs a series from the start.
            metrics.shed(&upstream.name);
        }
        let old = before.get(upstream.name.as_str());
        let recoveries = old.map_or_else(Arc::default, |group| group.shared_recoveries());
        let known = old.map(|group| group.servers.load_full()).unwrap_or_default();
        let server = |address: SocketAddr, host: Option<String>| {
            let same = known.iter().find(|server| server.address == address && server.tls_host == host);
            same.map_or_else(
                || {
                    let metrics = metrics.server(&upstream.name, &address.to_string());
                    Arc::new(Server::new(&upstream.name, address, host, metrics, Arc::clone(&recoveries)))
                },
                Arc::clone,
            )
        };
        let servers = upstream.servers.iter().filter_map(|wanted| match wanted {
            ServerAddress::Plain(address) => Some(server(*address, None)),
            ServerAddress::Tls { address, host } => Some(server(*address, Some(host.clone()))),
            // Its addresses are not known yet.
            ServerAddress::Named { .. } => None,
        });
        let mut servers: Vec<_> = servers.collect();
        // Those given by name stay as they were last resolved.
        if old.is_some_and(|group| group.config.servers == upstream.servers) {
            let resolved = known.iter().filter(|old| !servers.iter().any(|new| Arc::ptr_eq(old, new)));
            let resolved: Vec<_> = resolved.map(Arc::clone).collect();
            servers.extend(resolved);
        }
        let group = Group::new(upstream.clone(), servers, recoveries);
        Arc::new(match old {
            Some(old) => group.after(old),
            None => group,
        })
    };
    config.upstreams.iter().map(build).collect()
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
