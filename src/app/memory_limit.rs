//! The memory limit of the control group, and the sockets' share of it.
//!
//! Data that waits in a socket is charged to the group too: a flood that fills every buffer must not get the group killed.
//! The number of CPUs comes from `std::thread::available_parallelism`, which considers affinity and the group's quota
//! (cgroup v1 and v2).

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::server::socket::SocketBuffers;

/// Mount point of the hierarchy.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Divisor of the group's memory for the share of all UDP sockets, and for the equal share of all TCP connections.
const SHARE: usize = 16;
/// Estimate of the most memory that nodens needs besides its cache and a large configuration: code, job accounts, queries in
/// flight.
const BESIDES: usize = 44 << 20;
/// Estimate of the memory of each worker: buffers for batches, statistics, connections to upstreams.
const WORKER: usize = 1 << 20;

/// Returns the buffer sizes of the listeners. Warns if the group has less memory than the configuration may need.
pub(super) fn buffers(config: &Config, workers: usize) -> SocketBuffers {
    let Some(limit) =
        fs::read_to_string("/proc/self/cgroup").ok().and_then(|own| memory_limit(Path::new(CGROUPS), &own))
    else {
        return SocketBuffers::LARGEST;
    };
    let (sockets, connections) = (config.server.listen.len() * workers, config.server.tcp_connections);
    let buffers = shares(limit, sockets, connections);
    let wanted = wanted(config.cache.memory + BESIDES + WORKER * workers + config.footprint());
    if wanted > limit {
        tracing::warn!(
            limit_mib = limit >> 20,
            wanted_mib = wanted >> 20,
            "the control group's memory limit is lower than cache.memory and the memory that nodens needs besides: the kernel may kill nodens"
        );
    }
    buffers
}

/// Returns the limit for a process that needs `own` bytes: with the shares of its sockets, as in `docs/guides/deploy.md`. The
/// least buffer sizes exceed these shares only if many sockets are full.
fn wanted(own: usize) -> usize {
    own.saturating_mul(SHARE) / (SHARE - 2)
}

/// Returns the buffer sizes for this number of UDP sockets and TCP connections within a memory limit.
fn shares(limit: usize, sockets: usize, connections: usize) -> SocketBuffers {
    let (least, most) = (SocketBuffers::LEAST, SocketBuffers::LARGEST);
    // A third of a connection's share is for queries.
    let third = limit / SHARE / connections.max(1) / 3;
    SocketBuffers {
        udp: (limit / SHARE / sockets.max(1)).clamp(least.udp, most.udp),
        tcp_send: (third * 2).clamp(least.tcp_send, most.tcp_send),
        tcp_receive: third.clamp(least.tcp_receive, most.tcp_receive),
    }
}

/// Returns the least memory limit of a process's group and the groups above it; `None` if there is no limit. `own` is the
/// content of `/proc/self/cgroup`: see cgroups(7).
fn memory_limit(root: &Path, own: &str) -> Option<usize> {
    let limits = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let (top, file): (PathBuf, &str) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let group = top.join(path);
        let read = |group: &Path| fs::read_to_string(group.join(file)).ok()?.trim().parse::<usize>().ok();
        // In a cgroup namespace of its own the process sees its group as the root.
        group.ancestors().take_while(|group| group.starts_with(&top)).filter_map(read).min()
    });
    // Without a limit, cgroup v1 reports a number of this size.
    limits.min().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("nodens-room-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let file = root.join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            fs::write(file, text).expect("writes");
        };
        write("kubepods/pod1/one/memory.max", "max\n");
        write("kubepods/pod1/memory.max", "134217728\n");
        write("kubepods/memory.max", "1073741824\n");
        write("memory/old/memory.limit_in_bytes", "67108864\n");
        write("memory/free/memory.limit_in_bytes", "9223372036854771712\n");
        for (own, limit) in [
            ("0::/kubepods/pod1/one\n", Some(128 << 20)),
            ("0::/kubepods\n", Some(1 << 30)),
            ("0::/\n", None),
            ("0::/elsewhere\n", None),
            ("5:cpu,cpuacct:/old\n4:hugetlb,memory:/old\n0::/\n", Some(64 << 20)),
            ("4:memory:/free\n", None),
            ("nonsense\n", None),
        ] {
            assert_eq!(memory_limit(&root, own), limit, "{own}");
        }
        fs::remove_dir_all(&root).expect("removes");
    }

    #[test]
    fn the_limit_is_that_of_the_documentation() {
        // 64 MiB of cache and four workers.
        assert_eq!(wanted((64 << 20) + BESIDES + 4 * WORKER), 128 << 20);
    }

    #[test]
    fn buffers_follow() {
        assert_eq!(shares(4 << 30, 4, 1_024), SocketBuffers::LARGEST);
        assert_eq!(shares(64 << 20, 4, 1_024).udp, 1 << 20);
        assert_eq!(shares(64 << 20, 1_000, 100_000), SocketBuffers::LEAST);
        let some = shares(96 << 20, 4, 256);
        assert_eq!((some.tcp_send, some.tcp_receive), (16 << 10, 8 << 10));
    }
}
