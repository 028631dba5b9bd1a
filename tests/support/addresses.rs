//! Loopback addresses that no other test uses, in this process or in another.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// Port of these addresses; below the kernel's ephemeral ports.
const PORT: u16 = 5_399;
/// Number of addresses of a process before one is reused.
const OF_A_PROCESS: u32 = 511;

/// Returns an address on which nothing listens and that no other caller gets: one of 127.128.0.0/9, chosen by process id and
/// a counter.
pub(crate) fn own_address() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % OF_A_PROCESS;
    let number = (std::process::id() % (1 << 14)) << 9 | count;
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 128, 0, 0)) | number), PORT).into()
}
