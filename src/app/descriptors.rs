//! The limit of open files: raised to its maximum, and divided.

use std::fs;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::admission::descriptors::{DescriptorDemand, Descriptors};
use crate::config::{Config, ServerAddress};
use crate::upstream::tcp::INSTEAD;

/// Number of addresses that a server's name is counted for; it may have up to eight.
const OF_A_NAME: usize = 4;
/// Usual limit, for a system that does not report it.
const USUAL: usize = 1_024;

/// Raises the soft limit of open files to the hard limit. The low soft limit is for programs that use select(2), which fails
/// beyond 1,024; nodens does not use it.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Divides the descriptors that the process may open besides the ones that are open now: its listeners and their copies.
/// Workers open one more for each of the `watched` listeners.
pub(super) fn shares(config: &Config, workers: usize, watched: usize) -> Arc<Descriptors> {
    let limit =
        getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // Workers and the control thread send queries to upstreams.
    let descriptors = Arc::new(Descriptors::new(limit, open + watched, workers + 1, !config.report.is_empty()));
    share_out(&descriptors, config);
    descriptors
}

/// Divides the descriptors for a configuration; logs a warning if the configuration may need more.
pub(super) fn share_out(descriptors: &Descriptors, config: &Config) {
    let mut wish = DescriptorDemand { clients: config.server.tcp_connections, servers: 0, connections: 0 };
    for upstream in &config.upstreams {
        let count = |server: &ServerAddress| if matches!(server, ServerAddress::Named { .. }) { OF_A_NAME } else { 1 };
        let servers: usize = upstream.servers.iter().map(count).sum();
        wish.servers += servers;
        wish.connections += servers * (upstream.tcp_connections + INSTEAD);
    }
    if !descriptors.share_out(wish) {
        let share = descriptors.of_thread(wish.servers, wish.connections);
        tracing::warn!(
            limit = descriptors.limit(),
            needed = descriptors.needed(wish),
            client_connections = descriptors.clients().min(wish.clients),
            ports_per_server = share.ports_per_server,
            upstream_connections_per_worker = share.connections,
            "the limit of open files (RLIMIT_NOFILE) is below what the configuration may take: fewer are opened"
        );
    }
}
