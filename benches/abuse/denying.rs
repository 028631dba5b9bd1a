//! An upstream that denies every name at once. It parses nothing, so long names cost it no more than short ones.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::batch;

/// QR, in the third byte of a message.
const RESPONSE: u8 = 0x80;
/// RA and NXDOMAIN, in the fourth byte.
const NO_SUCH_NAME: u8 = 0x83;
/// Number of queries received.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Starts the upstream on a free port of 127.0.0.1, in a thread that lives as long as this process.
pub fn start() -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        batch::serve(&socket, |packet, len| {
            SEEN.fetch_add(1, Ordering::Relaxed);
            packet[2] |= RESPONSE;
            packet[3] = NO_SUCH_NAME;
            len
        })
    });
    Ok(address)
}

/// Returns the number of queries received so far.
pub fn seen() -> u64 {
    SEEN.load(Ordering::Relaxed)
}
