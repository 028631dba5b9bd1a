//! Loopback addresses that no other test has, in this process or in another.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// The port. It lies below those that the kernel gives to sockets that ask for any.
const PORT: u16 = 5_399;
/// How many addresses a process has before it uses one again.
const OF_A_PROCESS: u32 = 511;

/// Returns an address on which nothing listens and that is not returned to anybody else: one of 127.128.0.0/9, by the id of
/// this process and a count.
pub(crate) fn own_address() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % OF_A_PROCESS;
    let number = (std::process::id() % (1 << 14)) << 9 | count;
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 128, 0, 0)) | number), PORT).into()
}
