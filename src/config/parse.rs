//! Parser of the configuration file: turns its text into a [`Config`], or into all errors of the file.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use toml::Spanned;

use super::address::{ServerAddress, own_listener};
use super::advice::advise;
use super::diagnostic::{Diagnostic, Diagnostics, nearest, suggestion};
use super::file::ConfigFile;
use super::hosts::hosts;
use super::pages::{AdminConfig, AdminListener};
use super::records::records;
use super::rewrites::rewrites;
use super::routes::{FALLTHROUGH_NODATA, Fallthrough, Route, RouteTable, cluster, filter_types};
use super::upstreams::{UpstreamConfig, UpstreamTable};
use super::views::{MOST_VIEWS, View, ViewTable};
use super::zones::ZoneValue;
use super::{ClientConfig, Config, cache, clients, node, observability, server, warm_up};
use crate::wire::name::Name;

/// Parses and validates a configuration file.
///
/// `local` are the addresses of this machine. A server at one of them may be nodens itself, under a wildcard listener.
///
/// # Errors
///
/// All errors of the text, in the order of its lines. Errors that may follow from another one are suppressed: an unknown
/// table may be the missing one. A key whose TOML is broken has one error; the other keys of its table are still read.
///
/// ```
/// use nodens::config::parse::parse;
///
/// let text = "[upstreams.up]\nservers = ['192.0.2.1']\n[[route]]\nzones = ['.']\nto = 'up'\n";
/// let config = parse(text, &[]).expect("a valid configuration");
/// assert_eq!(config.upstreams.len(), 1);
///
/// let mistakes = parse(&text.replace("'up'", "'pu'"), &[]).expect_err("an unknown upstream");
/// assert_eq!(mistakes[0].to_string(), "5:6: to: there is no [upstreams.pu]; did you mean `up`?");
/// ```
pub fn parse(text: &str, local: &[IpAddr]) -> Result<Config, Vec<Diagnostic>> {
    let diagnostics = Diagnostics::new(text);
    let file = ConfigFile::read(text, &diagnostics);
    let check = Checker { file: &file, diagnostics: &diagnostics, local };
    let config = check.config();
    advise(&file, &diagnostics);
    let warnings = diagnostics.warnings();
    diagnostics.unless_any(config.map(|config| Config { warnings, ..config }))
}

/// Checks that need more than one value. Each check adds errors, and returns `None` if it has no usable result.
struct Checker<'c, 't> {
    file: &'c ConfigFile,
    diagnostics: &'c Diagnostics<'t>,
    local: &'c [IpAddr],
}

impl Checker<'_, '_> {
    fn config(&self) -> Option<Config> {
        let server = server::server(&self.file.server, self.diagnostics);
        let admin = self.admin(&server.listen);
        let report = self.report(&server.listen, &admin);
        let node = self.file.node.as_ref().map(|file| node::node(file, &server.listen, self.diagnostics));
        let bootstrap = self.bootstrap(&server.listen);
        let upstreams = self.upstreams(&server.listen);
        self.zones();
        self.uses();
        let routes = self.routes(self.file.routes.as_deref().unwrap_or_default(), None);
        let records = records(&self.file.records, self.diagnostics);
        let hosts = hosts(self.file.hosts.as_ref(), self.diagnostics);
        let rewrites = rewrites(&self.file.rewrites, self.diagnostics);
        let cache = cache::cache(&self.file.cache);
        let (kubernetes, clients) = (clients::kubernetes(&self.file.kubernetes), self.clients());
        let warm_up = warm_up::warm_up(&self.file.warm_up);
        let views = self.views(routes.as_ref().map_or(0, Vec::len));
        let (upstreams, mut routes) = (upstreams?, routes?);
        let node =
            node.zip(self.file.node.as_ref()).map(|(node, file)| node.default_fallback(file, &routes, &upstreams));
        let views = views.into_iter().map(|view| {
            let (view, own) = view?;
            routes.extend(own);
            Some(view)
        });
        let views = views.collect::<Option<_>>()?;
        let metrics = observability::metrics(&self.file.metrics);
        let query_log = self.file.query_log.as_ref().map(observability::query_log);
        Some(Config {
            server,
            admin,
            report,
            node,
            handover: self.file.handover.as_ref().map(|socket| socket.get_ref().0.clone()),
            cache,
            bootstrap,
            upstreams,
            routes,
            records,
            hosts,
            rewrites,
            kubernetes,
            warm_up,
            clients,
            views,
            metrics,
            query_log,
            needs_restart: Vec::new(),
            warnings: Vec::new(),
        })
    }

    fn admin(&self, listen: &[SocketAddr]) -> AdminConfig {
        let Some(file) = &self.file.admin else { return AdminConfig::default() };
        let all = file.listen.iter().chain(&file.metrics_listen);
        self.diagnostics.once("listener", all.clone().map(|listen| (listen.span(), listen.get_ref().0)));
        for own in all {
            self.free(own.span(), own.get_ref().0, "server", listen);
        }
        let addresses = |listeners: &[AdminListener]| listeners.iter().map(|listen| listen.get_ref().0).collect();
        AdminConfig {
            listen: addresses(&file.listen),
            metrics_listen: addresses(&file.metrics_listen),
            allow: file.allow.clone(),
        }
    }

    fn report(&self, listen: &[SocketAddr], admin: &AdminConfig) -> Vec<SocketAddr> {
        let report = &self.file.report;
        self.diagnostics.once("listener", report.iter().map(|listen| (listen.span(), listen.get_ref().0)));
        for own in report {
            self.free(own.span(), own.get_ref().0, "server", listen);
            self.free(own.span(), own.get_ref().0, "admin", &admin.listen);
            self.free(own.span(), own.get_ref().0, "admin", &admin.metrics_listen);
        }
        report.iter().map(|listen| listen.get_ref().0).collect()
    }

    /// Adds an error if `address` overlaps a listener of another table.
    fn free(&self, at: Range<usize>, address: SocketAddr, table: &str, listeners: &[SocketAddr]) {
        let taken = |other: &&SocketAddr| {
            let overlap = other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified();
            address.port() != 0 && other.port() == address.port() && other.is_ipv4() == address.is_ipv4() && overlap
        };
        if let Some(other) = listeners.iter().find(taken) {
            let what = format!("listen: {address} is taken: [{table}] listens on {other}; choose another port");
            self.diagnostics.add(at, what);
        }
    }

    fn bootstrap(&self, listen: &[SocketAddr]) -> Vec<SocketAddr> {
        let servers = &self.file.bootstrap;
        self.diagnostics.once("server", servers.iter().map(|server| (server.span(), server.get_ref().0)));
        for server in servers {
            self.not_oneself(server.span(), server.get_ref().0, listen);
        }
        servers.iter().map(|server| server.get_ref().0).collect()
    }

    fn upstreams(&self, listen: &[SocketAddr]) -> Option<Vec<UpstreamConfig>> {
        let upstreams = self.file.upstreams.iter().flatten();
        let checked: Vec<_> = upstreams.map(|upstream| self.upstream(upstream, listen)).collect(); // check all first
        checked.into_iter().collect()
    }

    fn upstream(&self, file: &UpstreamTable, listen: &[SocketAddr]) -> Option<UpstreamConfig> {
        let name = file.name.get_ref();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            let what = format!("{name:?} is no name for a group: letters, digits, `-`, `_` and `.`, such as kube-dns");
            self.diagnostics.add(file.name.span(), what);
        }
        let servers = file.servers.as_ref()?;
        self.diagnostics.once("server", servers.iter().map(|server| (server.span(), &server.get_ref().0)));
        for server in servers {
            match &server.get_ref().0 {
                &ServerAddress::Plain(address) | &ServerAddress::Tls { address, .. } => {
                    self.not_oneself(server.span(), address, listen);
                }
                ServerAddress::Named { host, .. } if self.file.bootstrap.is_empty() && self.sure(false) => {
                    let what = format!(
                        "`{host}` has to be resolved by others: add `servers = [\"ADDRESS\"]` under [bootstrap]"
                    );
                    self.diagnostics.add(server.span(), what);
                }
                ServerAddress::Named { .. } => {}
            }
        }
        Some(UpstreamConfig {
            name: name.clone(),
            servers: servers.iter().map(|server| server.get_ref().0.clone()).collect(),
            select: file.select,
            deadline: file.deadline.get_ref().duration(),
            max_qps: file.max_qps.as_ref().map(|count| count.get_ref().0 as u32),
            tcp_connections: file.tcp_connections.get_ref().0,
            trust_ad: file.trust_ad,
            randomize_case: file.randomize_case,
        })
    }

    /// Checks that no zone is claimed twice and that every name has a route, for the routes of all clients and for each view.
    fn zones(&self) {
        let routes = self.file.routes.as_deref().unwrap_or_default();
        let covered = self.claims(routes, &[]);
        let readable = routes.iter().all(|route| route.zones.is_some());
        if self.sure(self.file.routes.is_some()) && readable && !covered {
            let last = routes.last().map(|route| route.at.clone()).unwrap_or_default();
            let what = "no route covers the names outside all zones: one [[route]] needs `zones = [\".\"]`";
            self.diagnostics.add(last, what);
        }
        for view in &self.file.views {
            let covered = self.claims(&view.routes, &view.deny);
            if !covered && !view.inherit && view.routes.iter().all(|route| route.zones.is_some()) {
                let what = "inherit = false, and nothing here covers the names outside all zones: one [[view.route]] needs \
                            `zones = [\".\"]`, or the view `deny = [\".\"]`";
                self.diagnostics.add(view.at.clone(), what);
            }
        }
    }

    /// Adds an error for each zone that is claimed twice. Returns whether the root is claimed.
    fn claims(&self, routes: &[RouteTable], deny: &[Spanned<ZoneValue>]) -> bool {
        let mut claimed: HashMap<&Name, Range<usize>> = HashMap::new();
        let zones = routes.iter().filter_map(|route| route.zones.as_deref()).flatten().map(|zone| ("zones", zone));
        for (key, zone) in zones.chain(deny.iter().map(|zone| ("deny", zone))) {
            let again = zone.get_ref().names.iter().find_map(|name| Some((name, claimed.get(name)?)));
            if let Some((name, first)) = again {
                let line = self.diagnostics.line(first.clone());
                self.diagnostics
                    .add(zone.span(), format!("{key}: line {line} claims {name} already; a zone has one route"));
            }
            for name in &zone.get_ref().names {
                claimed.entry(name).or_insert_with(|| zone.span());
            }
        }
        claimed.contains_key(&Name::root())
    }

    /// Adds an error for each upstream that no route uses.
    fn uses(&self) {
        let views = self.file.views.iter().flat_map(|view| &view.routes);
        let routes: Vec<_> = self.file.routes.iter().flatten().chain(views).collect();
        let readable = routes.iter().all(|route| route.to.is_some());
        let upstreams = self.file.upstreams.as_deref().unwrap_or_default();
        let known = || upstreams.iter().map(|upstream| upstream.name.get_ref().as_str());
        // A misspelt `to` is one error, not two: the upstream whose name is nearest counts as used.
        let search_targets = |to: &Spanned<String>| nearest(to.get_ref(), known());
        for upstream in upstreams.iter().filter(|_| self.sure(self.file.routes.is_some()) && readable) {
            let name = upstream.name.get_ref().as_str();
            let mut used = routes.iter().flat_map(|route| route.to.iter().chain(&route.fallthrough));
            if !used.any(|to| to.get_ref() == name || search_targets(to) == Some(name)) {
                let what =
                    format!("no [[route]] leads to `{name}`: add one with `to = {name:?}`, or leave the group out");
                self.diagnostics.add(upstream.name.span(), what);
            }
        }
    }

    /// Converts routes, of a view or of all clients; `None` if one of them is incomplete.
    fn routes(&self, routes: &[RouteTable], view: Option<&str>) -> Option<Vec<Route>> {
        let built: Vec<_> = routes.iter().map(|route| self.route(route, view)).collect(); // check all first
        built.into_iter().collect()
    }

    /// Converts each view with its own routes, whose indices follow the `before` existing ones.
    fn views(&self, before: usize) -> Vec<Option<(View, Vec<Route>)>> {
        let views = &self.file.views;
        self.diagnostics.once("view", views.iter().map(|view| (view.name.span(), view.name.get_ref())));
        if let Some(view) = views.get(MOST_VIEWS) {
            self.diagnostics
                .add(view.at.clone(), format!("there are {} views; at most {MOST_VIEWS} may be", views.len()));
        }
        let mut before = before;
        let view = |file: &ViewTable| {
            let name = file.name.get_ref().0.clone();
            let (selector, records) = (file.selector(self.diagnostics), records(&file.records, self.diagnostics));
            let own = self.routes(&file.routes, Some(&name))?;
            let routes = before..before + own.len();
            before = routes.end;
            let view = View {
                name,
                selector,
                inherit: file.inherit,
                routes,
                records,
                deny: file.deny.iter().flat_map(|zone| zone.get_ref().names.iter().cloned()).collect(),
                deny_private_addresses: file.deny_private_addresses,
                filter_types: filter_types(&file.filter_types, self.diagnostics),
                client_max_qps: file.client_max_qps.as_ref().map(|count| count.get_ref().0 as u32),
                hints: file.hints.unwrap_or(self.file.server.hints.of_views()),
            };
            Some((view, own))
        };
        views.iter().map(view).collect()
    }

    fn route(&self, file: &RouteTable, view: Option<&str>) -> Option<Route> {
        let to = self.group("to", file.to.as_ref()?);
        let fallthrough = self.fallthrough(file);
        let zones = file.zones.as_ref()?;
        let label = zones.iter().map(|zone| zone.get_ref().text.as_str()).collect::<Vec<_>>().join(" ");
        let cluster = cluster(file, zones, self.diagnostics);
        Some(Route {
            cluster,
            zones: zones.iter().flat_map(|zone| zone.get_ref().names.iter().cloned()).collect(),
            label: match view {
                Some(view) => format!("{label} ({view})"),
                None => label,
            },
            to: to?,
            negative_max_ttl: file.negative_max_ttl.as_ref().map(|time| time.get_ref().duration()),
            deny_private_addresses: file.deny_private_addresses,
            deny_private_names: file.deny_private_names,
            filter_types: filter_types(&file.filter_types, self.diagnostics),
            fallthrough,
        })
    }

    /// Returns the index of the upstream of that name. Adds an error if there is none.
    fn group(&self, key: &str, name: &Spanned<String>) -> Option<usize> {
        let upstreams = self.file.upstreams.as_deref().unwrap_or_default();
        let found = upstreams.iter().position(|upstream| upstream.name.get_ref() == name.get_ref());
        if found.is_none() && self.sure(self.file.upstreams.is_some()) {
            let known = upstreams.iter().map(|upstream| upstream.name.get_ref().as_str());
            let near = suggestion(name.get_ref(), known);
            self.diagnostics.add(name.span(), format!("{key}: there is no [upstreams.{}]{near}", name.get_ref()));
        }
        found
    }

    fn fallthrough(&self, file: &RouteTable) -> Option<Fallthrough> {
        let Some(name) = &file.fallthrough else {
            if let Some(flag) = file.fallthrough_nodata.as_ref().filter(|flag| *flag.get_ref()) {
                let what = "fallthrough_nodata: this route has no `fallthrough`; name the group that is asked next";
                self.diagnostics.add(flag.span(), what);
            }
            return None;
        };
        if file.to.as_ref().is_some_and(|to| to.get_ref() == name.get_ref()) {
            let what =
                format!("fallthrough: {} is the group that this route asks first; name another one", name.get_ref());
            self.diagnostics.add(name.span(), what);
        }
        let nodata = file.fallthrough_nodata.as_ref().map_or(FALLTHROUGH_NODATA, |flag| *flag.get_ref());
        Some(Fallthrough { to: self.group("fallthrough", name)?, nodata })
    }

    fn clients(&self) -> Vec<ClientConfig> {
        let clients = &self.file.clients;
        self.diagnostics.once("source", clients.iter().map(|client| (client.source.span(), client.source.get_ref().0)));
        clients.iter().map(clients::client).collect()
    }

    fn not_oneself(&self, at: Range<usize>, server: SocketAddr, listen: &[SocketAddr]) {
        if let Some(own) = own_listener(server, listen, self.local) {
            let what = format!("{server} is nodens itself, which listens on {own}: queries would go in a circle");
            self.diagnostics.add(at, what);
        }
    }

    /// Reports whether an error about a missing table is certain: the TOML is valid, and the table is `present` or no table has
    /// an unknown name that could be a misspelling.
    fn sure(&self, present: bool) -> bool {
        self.file.sound && (present || !self.file.strangers)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{LogTarget, Logged, Pattern, Select, Selector};
    use crate::wire::rtype;

    const FULL: &str = include_str!("../../config/nodens.toml");
    const MINIMAL: &str = include_str!("../../config/minimal.toml");

    #[test]
    fn every_key_arrives() {
        let config = parse(FULL, &[]).expect("good");
        assert_eq!(config.admin.listen, [SocketAddr::from(([127, 0, 0, 1], 9053))]);
        assert!(config.admin.metrics_listen.is_empty() && config.admin.allow.len() == 2);
        assert_eq!(config.report.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:9355", "[::1]:9355"]);
        assert_eq!(config.bootstrap.len(), 2);
        let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        assert_eq!(names, ["kube-dns", "corporate", "public"], "in the order of the file");
        assert_eq!(config.upstreams[2].select, Select::Fastest);
        let [kube, corporate, public, mirror] = config.routes.as_slice() else { panic!("{:?}", config.routes) };
        assert_eq!((kube.to, corporate.to, public.to, mirror.to), (0, 1, 2, 1));
        assert_eq!(kube.label, "cluster.local 10.96.0.0/12 10.244.0.0/16");
        assert_eq!(kube.zones.len(), 1 + 16 + 1);
        assert_eq!(kube.negative_max_ttl, Some(Duration::from_secs(5)));
        assert!(public.deny_private_addresses && !kube.deny_private_addresses);
        assert_eq!((config.records[0].rtype, config.records[0].ttl), (rtype::A, 300));
        assert_eq!(config.records[0].rdata, [10, 0, 3, 7]);
        let log = config.query_log.as_ref().expect("a query log");
        assert_eq!((&log.to, log.only), (&LogTarget::Stdout, Logged::Failures));
        assert_eq!((log.sample, log.max_per_second), (1_000_000, 100));
        assert_eq!(config.kubernetes.watch, Some(false));
        assert_eq!(config.kubernetes.node.as_deref(), Some("node-1.example"));
        assert_eq!(config.kubernetes.namespaces, ["gitlab-runner"]);
        assert!(config.warm_up.enabled);
        assert_eq!(config.warm_up.file.as_deref(), Some(Path::new("/var/lib/nodens/query-history.json")));
        let [client] = config.clients.as_slice() else { panic!("{:?}", config.clients) };
        assert_eq!((client.source.to_string().as_str(), client.name.as_str()), ("10.0.8.0/24", "build-vms"));
        let words = [&client.namespace, &client.project, &client.job, &client.runner].map(Option::as_deref);
        assert_eq!(words, ["ci", "group/project", "nightly", "shell-runner-1"].map(Some));
        let [view] = config.views.as_slice() else { panic!("{:?}", config.views) };
        let pattern = |text: &str| Pattern { start: text.trim_end_matches('*').to_owned(), open: text.ends_with('*') };
        let selector = Selector {
            namespaces: vec![pattern("ci-forks"), pattern("ci-job-*")],
            labels: [("example.com/trust".to_owned(), "low".to_owned())].into(),
            projects: vec![pattern("42"), pattern("group/*")],
            runners: vec![pattern("fork-runner-*")],
            sources: ["10.244.0.0/16", "fd00::/64"].map(|net| net.parse().expect(net)).into(),
            known: Some(true),
        };
        assert_eq!((view.name.as_str(), &view.selector), ("forks", &selector));
        assert_eq!((view.inherit, view.deny_private_addresses, view.client_max_qps), (true, Some(true), Some(500)));
        assert_eq!(
            view.deny.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["corp.example.", "10.in-addr.arpa."]
        );
        assert_eq!((view.routes.clone(), mirror.label.as_str()), (3..4, "mirror.corp.example (forks)"));
        assert_eq!(view.records[0].rdata, [10, 0, 9, 9]);
    }

    #[test]
    fn the_full_example_shows_the_defaults() {
        let (full, minimal) = (parse(FULL, &[]).expect("good"), parse(MINIMAL, &[]).expect("good"));
        assert_eq!(full.server, minimal.server);
        assert_eq!((&full.cache, &full.metrics), (&minimal.cache, &minimal.metrics));
        assert_eq!(minimal.warm_up, crate::config::WarmUp { file: None, ..full.warm_up.clone() });
        assert_eq!((&minimal.admin, minimal.report.as_slice()), (&AdminConfig::default(), &[][..]));
        let kube = &full.upstreams[0];
        assert_eq!(
            minimal.upstreams[0],
            UpstreamConfig { name: "public".to_owned(), servers: minimal.upstreams[0].servers.clone(), ..kube.clone() }
        );
    }

    #[test]
    fn own_addresses_count_under_a_wildcard() {
        let text = "[server]\nlisten = [\"0.0.0.0\"]\n[upstreams.a]\nservers = [\"10.0.0.5\"]\n[[route]]\nzones = [\".\"]\nto = \"a\"\n";
        assert!(parse(text, &[]).is_ok());
        let diagnostics = parse(text, &["10.0.0.5".parse().expect("address")]).expect_err("a loop");
        assert_eq!((diagnostics.len(), diagnostics[0].line, diagnostics[0].column), (1, 4, 12));
    }

    #[test]
    fn few_tcp_connections_are_fewer_per_client() {
        let config = parse(&format!("[server]\ntcp_connections = 8\n{MINIMAL}"), &[]).expect("good");
        assert_eq!(config.server.tcp_connections_per_client, 8);
    }

    proptest! {
        /// Checks that a damaged file is parsed, or rejected with errors at positions inside it.
        #[test]
        fn any_damage_is_survived(at in 0..FULL.len(), len in 0usize..40, junk in r#"[\[\]"'=#.,{}\n a-z0-9é]{0,6}"#) {
            prop_assert!(FULL.is_ascii(), "cut between characters");
            let text = format!("{}{junk}{}", &FULL[..at], &FULL[(at + len).min(FULL.len())..]);
            if let Err(diagnostics) = parse(&text, &[]) {
                prop_assert!(!diagnostics.is_empty());
                for diagnostic in diagnostics {
                    prop_assert!(diagnostic.line <= text.lines().count() + 1, "{diagnostic}");
                    prop_assert!(!diagnostic.what.contains('\n'), "{diagnostic}");
                }
            }
        }
    }
}
