//! A configuration prepared for answering queries. Immutable: a reload builds another one and swaps the pointer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Admission;
use crate::cache::entry::{CacheScope, EntryLimits};
use crate::clients::{ClientIdentity, StaticClients, Views};
use crate::config::server::LONGEST_IDENTITY;
use crate::config::{Config, Hints, Route, RouteId, ServerAddress, View, ViewId};
use crate::effective_view::{self, Common, EffectiveView, EffectiveViewId};
use crate::local::cluster::Cluster;
use crate::local::pruning::Pruning;
use crate::local::special::Special;
use crate::metrics::Metrics;
use crate::route::Destination;
use crate::upstream::{Group, Server};
use crate::wire::cache_key::CacheKey;
use crate::wire::rtype;

/// Configuration, its tables, and its upstream groups.
#[derive(Debug)]
pub struct Snapshot {
    /// Number of the configuration, increased by each reload.
    pub generation: u32,
    /// Configuration that everything was built from. Keys that are read only at the start have the values of the start in every
    /// snapshot.
    pub config: Config,
    /// Clients that may send queries.
    pub admission: Admission,
    /// Clients that may use the admin pages.
    pub may_watch: Admission,
    /// Clients that the configuration names.
    pub clients: Arc<StaticClients>,
    pub(crate) views: Views,
    /// Labels of routes, in the order of [`Config::routes`]; shared with the previous snapshot if none changed.
    pub labels: Arc<[Arc<str>]>,
    /// Effective view for each view.
    sees: Vec<EffectiveViewId>,
    /// Effective views; the first is for clients of no view.
    effective_views: Vec<EffectiveView>,
    pub(crate) special: Special,
    /// Identity of the node for clients that request it (`[server] identity`); empty if it is not disclosed.
    pub identity: Box<str>,
    /// Groups, in the order of [`Route::to`].
    pub groups: Vec<Arc<Group>>,
    /// Indexes of the groups by name.
    by_name: HashMap<Box<str>, usize>,
    /// Cluster's domain of each route that has one; boxed, as few routes have one and it is large.
    clusters: Vec<Option<Box<Cluster>>>,
}

impl Snapshot {
    /// Returns the first snapshot, or the one after `previous`: servers in both keep their health.
    pub fn new(config: Config, metrics: &Metrics, previous: Option<&Self>) -> Self {
        let groups = groups(&config, metrics, previous);
        let generation = previous.map_or(0, |previous| previous.generation.wrapping_add(1));
        let common = Common::new(&config, &groups);
        let mut effective_views = vec![common.effective_view(None)];
        let mut sees = Vec::new();
        for view in &config.views {
            // Views with the same content share the cache. The cast is safe, as there are few views.
            let own = EffectiveViewId::of_index(effective_views.len() as u16);
            sees.push(if effective_view::differs(view) { own } else { EffectiveViewId::COMMON });
            if effective_view::differs(view) {
                effective_views.push(common.effective_view(Some(view)));
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
            effective_views,
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

    /// Returns the state of the checks of a route's cluster domain, if this snapshot has the same one with the same servers.
    fn pruning(&self, config: &Config, route: &Route) -> Option<Arc<Pruning>> {
        let servers =
            |config: &Config, route: &Route| config.upstreams.get(route.to).map(|group| group.servers.clone());
        let is_same = |(_, old): &(&Route, &Cluster)| Some(&old.config) == route.cluster.as_ref();
        let clusters = self.config.routes.iter().zip(&self.clusters);
        let mut same = clusters.filter_map(|(old, cluster)| Some((old, cluster.as_deref()?))).filter(is_same);
        let found = same.find(|(old, _)| servers(&self.config, old) == servers(config, route));
        found.map(|(_, cluster)| Arc::clone(&cluster.pruning))
    }

    /// Returns the effective view of a view's clients, or of clients of no view.
    #[inline]
    pub fn sees(&self, view: Option<ViewId>) -> EffectiveViewId {
        view.and_then(|view| self.sees.get(view.index()).copied()).unwrap_or(EffectiveViewId::COMMON)
    }

    /// Returns all effective views, the common one first.
    pub fn effective_views(&self) -> impl ExactSizeIterator<Item = EffectiveViewId> {
        (0..self.effective_views.len() as u16).map(EffectiveViewId::of_index)
    }

    /// Returns the view of a client.
    pub fn view(&self, identity: &ClientIdentity<'_>, address: IpAddr) -> Option<&View> {
        self.config.views.get(self.views.of(identity, address)?.index())
    }

    /// Returns the explanations that clients of a view get, or clients of no view.
    pub fn hints(&self, view: Option<ViewId>) -> Hints {
        let view = view.and_then(|view| self.config.views.get(view.index()));
        view.map_or(self.config.server.hints, |view| view.hints)
    }

    /// Returns the effective view with this id; the common one if there is none.
    pub fn effective_view(&self, id: EffectiveViewId) -> &EffectiveView {
        // The first one always exists.
        self.effective_views.get(id.index()).unwrap_or(&self.effective_views[0])
    }

    /// Returns the settings of a route.
    pub fn route(&self, route: RouteId) -> Option<&Route> {
        self.config.routes.get(route.index())
    }

    /// Returns the upstream group of a route.
    pub fn group(&self, route: RouteId) -> Option<&Arc<Group>> {
        self.groups.get(self.route(route)?.to)
    }

    /// Returns whether the server is in the current group of that name.
    pub fn has_server(&self, server: &Arc<Server>) -> bool {
        let group = self.by_name.get(server.group.as_str()).and_then(|at| self.groups.get(*at));
        group.is_some_and(|group| group.servers.load().iter().any(|other| Arc::ptr_eq(other, server)))
    }

    /// Returns the cluster's domain among the zones of a route.
    pub fn cluster(&self, route: RouteId) -> Option<&Cluster> {
        self.clusters.get(route.index())?.as_deref()
    }

    /// Returns the limits of the lifetime of a route's answers.
    pub fn limits(&self, route: RouteId) -> EntryLimits {
        let cache = &self.config.cache;
        let negative = self.route(route).and_then(|route| route.negative_max_ttl).unwrap_or(cache.negative_max_ttl);
        EntryLimits { max_ttl: seconds(cache.max_ttl), negative_max_ttl: seconds(negative), rotate: cache.rotate }
    }

    /// Returns the scope of an answer that came through `route` in the effective view `effective_view`. An answer that `follows` a
    /// CNAME depends on all routes.
    pub fn scope(&self, effective_view: EffectiveViewId, route: RouteId, follows: bool) -> CacheScope {
        CacheScope::new(self.generation, route, self.effective_view(effective_view).scope_fingerprint(route, follows))
    }

    /// Returns the scope and the route that an entry of an earlier configuration has now; `None` if it may no longer answer
    /// `key`, because its name is now static, special or denied, its type is filtered, or it depends on another route or other
    /// servers.
    #[cold]
    pub fn revalidate_scope(&self, scope: CacheScope, key: &CacheKey) -> Option<(CacheScope, RouteId)> {
        let (name, effective_view) = (key.name(), self.effective_views.get(key.effective_view().index())?);
        let (Destination::Route(route), depth) = effective_view.router.find(name)? else { return None };
        let is_filtered = self.route(route).is_some_and(|route| effective_view.filters(route, key.qtype()));
        if is_filtered || effective_view.has_records(name) || self.special.find(name, rtype::A, depth).is_some() {
            return None;
        }
        [false, true]
            .map(|follows| self.scope(key.effective_view(), route, follows))
            .into_iter()
            .find(|now| now.scope_fingerprint == scope.scope_fingerprint)
            .map(|now| (now, route))
    }

    /// Returns the scope of an entry under this configuration, and its route; `None` if it may no longer answer `key`.
    #[inline]
    pub fn current_scope(&self, scope: CacheScope, key: &CacheKey) -> Option<(CacheScope, RouteId)> {
        match scope.route_under(self.generation) {
            Some(route) => Some((scope, route)),
            None => self.revalidate_scope(scope, key),
        }
    }
}

/// Returns the configured identity, else the node's name, else the host's; empty if it is too long.
fn identity(config: &Config) -> String {
    let node = || config.kubernetes.node.clone().or_else(|| std::env::var("NODE_NAME").ok());
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let identity = config.server.identity.clone().or_else(node).unwrap_or_else(host);
    Some(identity.trim()).filter(|identity| identity.len() <= LONGEST_IDENTITY).unwrap_or_default().to_owned()
}

fn labels_of(config: &Config) -> impl Iterator<Item = &str> {
    config.routes.iter().map(|route| route.label.as_str())
}

/// Returns the groups of `config`; servers that existed before are shared, with their state.
fn groups(config: &Config, metrics: &Metrics, previous: Option<&Snapshot>) -> Vec<Arc<Group>> {
    let before: HashMap<&str, &Arc<Group>> =
        previous.iter().flat_map(|old| &old.groups).map(|group| (group.config.name.as_str(), group)).collect();
    let build = |upstream: &crate::config::UpstreamConfig| {
        if upstream.max_qps.is_some() {
            // A rate limit needs a time series from the start.
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
        // Servers given by name keep the addresses that were resolved last.
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
