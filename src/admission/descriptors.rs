//! Division of the file descriptors that the process may open, so that no user of descriptors can take them all.
//!
//! ```text
//! limit (RLIMIT_NOFILE)
//!   - open at the start, and opened by each thread to run        as many as needed
//!   - pages: connections to the admin pages                      1/16 of the limit, 8 to 64
//!   - reports: connections to clients' reports, if enabled       4 times that
//!   - spare: files, Kubernetes API, name lookups, closing ports  1/16 of the limit, 8 to 64
//!   = free ── clients' connections                               half at least, and never less than 4
//!          └─ upstreams, the same for each thread                half at least: UDP ports, connections
//! ```
//!
//! Each half may use what the other does not need. Pure: open and needed descriptors are arguments.

use std::sync::atomic::{AtomicUsize, Ordering};

/// UDP ports in rotation per thread and server, if there are enough descriptors.
pub(crate) const PORTS: usize = 64;
/// Descriptors that a thread opens to run: event queue, waker, signal pipe; doubled as a margin for libraries.
const PER_THREAD: usize = 8;
/// Divisor of the limit: the share of the admin pages, and the equal share that is spare.
const PART: usize = 16;
/// Bounds of these two shares.
const LEAST_PART: usize = 8;
const MOST_PART: usize = 64;
/// Share of the reports as a multiple of the admin pages' share: there are more clients than scrapers.
const REPORT_PARTS: usize = 4;
/// Client connections that are admitted even if no descriptor is free for them: TCP is not optional (RFC 7766).
const LEAST_CLIENTS: usize = 4;
/// Divisor of a thread's descriptors for upstreams: the share of connections when descriptors are scarce.
const CONNECTIONS_PART: usize = 4;
/// Divisor of a thread's UDP ports: the share of replaced ports that still wait for responses.
const LINGER_PART: usize = 4;

/// Descriptors that the configuration needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorDemand {
    pub clients: usize,
    pub servers: usize,
    /// Connections of one thread to all servers.
    pub connections: usize,
}

impl DescriptorDemand {
    /// Returns the descriptors that one thread needs for upstreams.
    fn of_thread(self) -> usize {
        // This includes replaced ports that still wait for responses.
        (self.servers * PORTS * LINGER_PART).div_ceil(LINGER_PART - 1) + self.connections
    }
}

/// Descriptors that one thread may open for upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadShare {
    /// UDP ports in rotation for each server; at least 1.
    pub ports_per_server: usize,
    /// UDP ports in all; the first one of a server may always be opened.
    pub ports: usize,
    /// Connections in all; the first one of a server may always be opened.
    pub connections: usize,
}

/// Shares of a process.
#[derive(Debug)]
pub struct Descriptors {
    limit: usize,
    free: usize,
    pages: usize,
    threads: usize,
    clients: AtomicUsize,
    of_thread: AtomicUsize,
}

impl Descriptors {
    /// Divides `limit` descriptors of a process with `threads` threads that query upstreams. `fixed` descriptors are open, or
    /// will be opened regardless of load. `reports` says whether clients can fetch their reports.
    pub fn new(limit: usize, fixed: usize, threads: usize, reports: bool) -> Self {
        let part = (limit / PART).clamp(LEAST_PART, MOST_PART);
        let parts = if reports { 2 + REPORT_PARTS } else { 2 };
        let free = limit.saturating_sub(fixed + threads * PER_THREAD + parts * part);
        Self { limit, free, pages: part, threads: threads.max(1), clients: 0.into(), of_thread: 0.into() }
    }

    /// Returns shares without bounds.
    pub fn unlimited() -> Self {
        let shares = Self::new(usize::MAX, 0, 1, false);
        shares.share_out(DescriptorDemand::default());
        shares
    }

    /// Divides the free descriptors. Returns whether they suffice for `wish`.
    pub fn share_out(&self, wish: DescriptorDemand) -> bool {
        let upstreams = wish.of_thread().saturating_mul(self.threads);
        let half = self.free / 2;
        // The bounds are not lowered to the wish: a later configuration may need more.
        let clients = half.max(self.free.saturating_sub(upstreams)).max(LEAST_CLIENTS);
        let rest = half.max(self.free.saturating_sub(wish.clients));
        self.clients.store(clients, Ordering::Relaxed);
        self.of_thread.store(rest / self.threads, Ordering::Relaxed);
        wish.clients <= clients && wish.of_thread() <= rest / self.threads
    }

    /// Returns the limit of the process.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the limit that `wish` needs.
    pub fn needed(&self, wish: DescriptorDemand) -> usize {
        self.limit - self.free + wish.clients + wish.of_thread() * self.threads
    }

    /// Returns the client connections that may be open.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Returns the connections to the admin pages that may be open.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the connections to clients' reports that may be open.
    pub fn reports(&self) -> usize {
        self.pages * REPORT_PARTS
    }

    /// Returns what one thread may open for `servers` upstream servers, if it needs `connections` connections to them.
    pub fn of_thread(&self, servers: usize, connections: usize) -> ThreadShare {
        let (share, servers) = (self.of_thread.load(Ordering::Relaxed), servers.max(1));
        let wish = DescriptorDemand { clients: 0, servers, connections };
        let connections = match wish.of_thread() <= share {
            true => connections,
            false => connections.min((share / CONNECTIONS_PART).max(servers)),
        };
        let ports = share.saturating_sub(connections);
        let in_rotation = ports - ports / LINGER_PART;
        ThreadShare { ports_per_server: (in_rotation / servers).clamp(1, PORTS), ports, connections }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: DescriptorDemand = DescriptorDemand { clients: 1_024, servers: 3, connections: 6 };

    #[test]
    fn where_there_are_enough_nothing_shrinks() {
        let shares = Descriptors::new(1 << 20, 300, 17, true);
        assert!(shares.share_out(WISH));
        assert!(shares.clients() > 100_000 && shares.pages() == 64);
        let share = shares.of_thread(3, 6);
        assert_eq!((share.ports_per_server, share.connections), (PORTS, 6));
        // A configuration of more servers and clients has room too.
        assert_eq!(shares.of_thread(30, 60).ports_per_server, PORTS);
        assert!(shares.needed(WISH) < 10_000 && shares.limit() == 1 << 20);
    }

    #[test]
    fn scarce_descriptors_are_reserved_by_purpose() {
        for (limit, fixed, threads) in [(1_024, 120, 17), (256, 40, 3), (128, 30, 2), (512, 200, 17)] {
            let shares = Descriptors::new(limit, fixed, threads, false);
            assert!(!shares.share_out(WISH), "{limit}");
            for servers in [1, 3, 12] {
                let ThreadShare { ports_per_server, ports, connections } = shares.of_thread(servers, 2 * servers);
                // The first port and connection of each server are always opened; beyond them all keep to the limit.
                let upstreams = (ports + connections).max(2 * servers) * threads;
                let others = fixed + threads * PER_THREAD + shares.pages() + LEAST_PART;
                if 2 * servers * threads <= shares.free / 2 {
                    assert!(upstreams + shares.clients() + others <= limit, "{limit} {servers}");
                }
                assert!((1..PORTS).contains(&ports_per_server) && connections >= servers.min(2 * servers));
            }
            assert!(shares.needed(WISH) > limit);
        }
    }

    #[test]
    fn what_one_half_does_not_want_the_other_has() {
        let shares = Descriptors::new(1_024, 40, 3, false);
        let few = DescriptorDemand { clients: 1_024, servers: 1, connections: 2 };
        assert!(!shares.share_out(few));
        assert!(shares.clients() > shares.free / 2);
        assert_eq!(shares.of_thread(1, 2).ports_per_server, PORTS);
        let quiet = DescriptorDemand { clients: 16, servers: 8, connections: 16 };
        shares.share_out(quiet);
        assert!(shares.of_thread(8, 16).ports > shares.free / 2 / 3);
    }

    #[test]
    fn a_tiny_limit_leaves_one_port_per_server() {
        let shares = Descriptors::new(64, 60, 2, false);
        assert!(!shares.share_out(WISH));
        assert_eq!(shares.clients(), LEAST_CLIENTS);
        let share = shares.of_thread(3, 6);
        assert_eq!(share, ThreadShare { ports_per_server: 1, ports: 0, connections: 3 });
        let unlimited = Descriptors::unlimited();
        assert!(unlimited.clients() > 1 << 40 && unlimited.of_thread(1, 2).ports_per_server == PORTS);
    }
}
