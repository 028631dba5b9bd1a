//! Addresses of servers that are configured by name, resolved with the bootstrap servers of the configuration.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::group::Group;
use super::server::Server;
use super::server_status::wall_clock;
use crate::config::ServerAddress;
use crate::metrics::Metrics;
use crate::metrics::events::EventKind;

/// Bounds of the interval between two lookups of one name, whatever its TTL.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Delay after a first failed lookup; it doubles up to the maximum of [`BETWEEN`].
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Maximum number of addresses used per name.
const MOST_ADDRESSES: usize = 8;

/// Address of a server, and the host name that resolved to it, if it was configured by name.
type ResolvedAddress = (SocketAddr, Option<String>);

/// Resolves the named servers of `group` periodically, and publishes their addresses. Never returns, except at once if no
/// server is named.
///
/// # Errors
/// The resolver for the bootstrap servers cannot be built.
pub async fn keep_current(group: Arc<Group>, bootstrap: &[SocketAddr], metrics: &Metrics) -> Result<(), NetError> {
    if !group.config.servers.iter().any(|server| matches!(server, ServerAddress::Named { .. })) {
        return Ok(());
    }
    let resolver = resolver(bootstrap)?;
    let name = group.config.name.as_str();
    let record = |kind, reason| metrics.events.record(wall_clock(), kind, (Some(name), None), reason);
    let mut after_failure = AFTER_FAILURE;
    let mut failing: Option<String> = None;
    loop {
        let wait = match resolve(&resolver, &group).await {
            Ok((addresses, ttl)) => {
                publish(&group, &addresses, metrics);
                group.set_unresolved(None);
                if let Some(host) = failing.take() {
                    record(EventKind::NameResolved, host);
                }
                after_failure = AFTER_FAILURE;
                ttl.clamp(BETWEEN.0, BETWEEN.1)
            }
            Err((host, error)) => {
                group.set_unresolved(Some(format!("{host}: {error}")));
                if failing.as_ref() == Some(&host) {
                    tracing::warn!(upstream = name, %host, %error, "still cannot resolve the name of an upstream server; retrying");
                } else {
                    record(EventKind::NameUnresolved, format!("{host}: {error}"));
                    failing = Some(host);
                }
                let wait = after_failure;
                after_failure = (after_failure * 2).min(BETWEEN.1);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Returns all addresses of the group in the order of the configuration, and how long they are valid. The error names the
/// host.
async fn resolve(
    resolver: &TokioResolver,
    group: &Group,
) -> Result<(Vec<ResolvedAddress>, Duration), (String, NetError)> {
    let mut addresses = Vec::new();
    let mut ttl = BETWEEN.1;
    for server in &group.config.servers {
        match server {
            ServerAddress::Plain(address) => addresses.push((*address, None)),
            ServerAddress::Tls { .. } => {}
            ServerAddress::Named { host, port } => {
                let host = host.to_string();
                let found = resolver.lookup_ip(host.as_str()).await.map_err(|error| (host.clone(), error))?;
                ttl = ttl.min(found.valid_until().saturating_duration_since(std::time::Instant::now()));
                let mut ips: Vec<IpAddr> = found.iter().collect();
                // The order of addresses in a response is random; the order of servers should not be.
                ips.sort();
                let ips = ips.into_iter().take(MOST_ADDRESSES);
                addresses.extend(ips.map(|ip| (SocketAddr::new(ip, *port), Some(host.clone()))));
            }
        }
    }
    Ok((addresses, ttl))
}

/// Publishes the addresses; servers that stay keep their state.
fn publish(group: &Group, addresses: &[ResolvedAddress], metrics: &Metrics) {
    let old = group.servers.load_full();
    let plain = |server: &&Arc<Server>| server.tls_host.is_none();
    let name = group.config.name.as_str();
    let mut servers = Vec::new();
    let mut added = Vec::new();
    for (address, host) in addresses {
        let server = match old.iter().filter(plain).find(|server| server.address == *address) {
            Some(server) => Arc::clone(server),
            None => {
                let metrics = metrics.server(name, &address.to_string());
                added.push((metrics.clone(), host.clone().unwrap_or_default()));
                Arc::new(Server::new(name, *address, None, metrics, group.shared_recoveries()))
            }
        };
        servers.push(server);
    }
    servers.extend(old.iter().filter(|server| server.tls_host.is_some()).map(Arc::clone));
    group.servers.store(Arc::new(servers));
    // Reported after the change, because the reader of the event may look up the server at once.
    for (server, host) in added {
        server.record_event(wall_clock(), EventKind::AddressAdded, host);
    }
    let stays = |server: &&Arc<Server>| addresses.iter().any(|(address, _)| *address == server.address);
    for gone in old.iter().filter(plain).filter(|server| !stays(server)) {
        let hosts: Vec<_> = group.config.servers.iter().filter_map(host_of).collect();
        gone.metrics.record_event(wall_clock(), EventKind::AddressRemoved, hosts.join(", "));
        metrics.forget_server(name, &gone.address.to_string());
    }
}

fn host_of(server: &ServerAddress) -> Option<String> {
    match server {
        ServerAddress::Named { host, .. } => Some(host.to_string()),
        ServerAddress::Plain(_) | ServerAddress::Tls { .. } => None,
    }
}

fn resolver(bootstrap: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        let mut server = NameServerConfig::udp(address.ip());
        server.connections = connections.into();
        server
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), bootstrap.iter().map(server).collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    options.timeout = Duration::from_secs(2);
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::parse;

    #[test]
    fn address_changes_keep_the_servers_that_stay() {
        let metrics = Metrics::new().expect("metrics");
        let text = "[bootstrap]\nservers = [\"192.0.2.9\"]\n[upstreams.up]\nservers = [\"dns.example\"]\n\
                    [[route]]\nzones = [\".\"]\nto = \"up\"\n";
        let config = parse(text, &[]).expect("a good configuration").upstreams.remove(0);
        let host = "dns.example.".to_string();
        let group = Group::new(config, Vec::new(), Arc::default());
        let found = |last: u8| (SocketAddr::from(([192, 0, 2, last], 53)), Some(host.clone()));
        publish(&group, &[found(1), found(2)], &metrics);
        let before = group.servers.load_full();
        publish(&group, &[found(2), found(3)], &metrics);
        publish(&group, &[found(2), found(3)], &metrics);
        let after = group.servers.load_full();
        assert_eq!(after.iter().map(|server| server.address).collect::<Vec<_>>(), [found(2).0, found(3).0]);
        assert!(Arc::ptr_eq(&before[1], &after[0]));

        let (events, _) = metrics.events.after(0);
        let told: Vec<_> = events.iter().map(|event| (event.kind, event.server.clone().unwrap_or_default())).collect();
        let right = [
            (EventKind::AddressAdded, "192.0.2.1:53"),
            (EventKind::AddressAdded, "192.0.2.2:53"),
            (EventKind::AddressAdded, "192.0.2.3:53"),
            (EventKind::AddressRemoved, "192.0.2.1:53"),
        ];
        assert_eq!(told, right.map(|(kind, server)| (kind, server.to_string())));
        assert!(events.iter().all(|event| event.upstream.as_deref() == Some("up")));
        assert!(events.iter().all(|event| event.reason == host), "{events:?}");
    }
}
