//! The addresses of servers that are given by name, from the bootstrap servers of the configuration.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::{Group, Server};
use crate::config::ServerAddress;
use crate::metrics::Metrics;

/// Bounds of the time between two look-ups of one name, whatever its TTL.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// The wait after a first failed look-up; it doubles up to the longest of [`BETWEEN`].
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Addresses taken of one name.
const MOST_ADDRESSES: usize = 8;

/// Resolves the named servers of `group` again and again, and puts their addresses in place. Ends never by itself; ends
/// at once where no server is named.
///
/// # Errors
/// The resolver for the bootstrap servers cannot be built.
pub async fn keep_current(group: Arc<Group>, bootstrap: &[SocketAddr], metrics: &Metrics) -> Result<(), NetError> {
    if !group.config.servers.iter().any(|server| matches!(server, ServerAddress::Named { .. })) {
        return Ok(());
    }
    let resolver = resolver(bootstrap)?;
    let mut after_failure = AFTER_FAILURE;
    loop {
        let wait = match resolve(&resolver, &group).await {
            Ok((addresses, ttl)) => {
                publish(&group, &addresses, metrics);
                after_failure = AFTER_FAILURE;
                ttl.clamp(BETWEEN.0, BETWEEN.1)
            }
            Err((host, error)) => {
                tracing::warn!(upstream = %group.config.name, %host, %error, "upstream's name cannot be resolved; trying again");
                let wait = after_failure;
                after_failure = (after_failure * 2).min(BETWEEN.1);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// All addresses of the group in the order of the file, and how long they hold. The error names the host.
async fn resolve(resolver: &TokioResolver, group: &Group) -> Result<(Vec<SocketAddr>, Duration), (String, NetError)> {
    let mut addresses = Vec::new();
    let mut ttl = BETWEEN.1;
    for server in &group.config.servers {
        match server {
            ServerAddress::Plain(address) => addresses.push(*address),
            ServerAddress::Tls { .. } => {}
            ServerAddress::Named { host, port } => {
                let host = host.to_string();
                let found = resolver.lookup_ip(host.as_str()).await.map_err(|error| (host, error))?;
                ttl = ttl.min(found.valid_until().saturating_duration_since(std::time::Instant::now()));
                let mut ips: Vec<IpAddr> = found.iter().collect();
                // The order of a reply is random; the order of servers should not be.
                ips.sort();
                addresses.extend(ips.into_iter().take(MOST_ADDRESSES).map(|ip| SocketAddr::new(ip, *port)));
            }
        }
    }
    Ok((addresses, ttl))
}

/// Puts the addresses in place; servers that stay keep all that is known of them.
fn publish(group: &Group, addresses: &[SocketAddr], metrics: &Metrics) {
    let old = group.servers.load_full();
    let plain = |server: &&Arc<Server>| server.tls_host.is_none();
    let name = group.config.name.as_str();
    let mut servers: Vec<Arc<Server>> = addresses
        .iter()
        .map(|address| match old.iter().filter(plain).find(|server| server.address == *address) {
            Some(server) => Arc::clone(server),
            None => {
                tracing::info!(upstream = name, server = %address, "upstream server found by its name");
                let metrics = metrics.server(name, &address.to_string());
                Arc::new(Server::new(name, *address, None, metrics, group.shared_recoveries()))
            }
        })
        .collect();
    for gone in old.iter().filter(plain).filter(|server| !addresses.contains(&server.address)) {
        tracing::info!(upstream = name, server = %gone.address, "upstream server gone from its name");
        metrics.forget_server(name, &gone.address.to_string());
    }
    servers.extend(old.iter().filter(|server| server.tls_host.is_some()).map(Arc::clone));
    group.servers.store(Arc::new(servers));
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
