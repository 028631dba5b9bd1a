//! The floor: a server that only turns each query into a response, in batches.
//!
//! On this kernel, no server can spend less on receiving a datagram and sending another, unless it bypasses the kernel. The
//! rest of a server's cost is its own. Over TCP, one read may return many queries, so a server may spend less there.

use std::io;
use std::net::UdpSocket;

use crate::batch;

/// Hidden argument that makes this program the floor; the port follows.
pub const FLOOR: &str = "be-the-floor";

/// QR, in the third byte of a message.
const RESPONSE: u8 = 0x80;

/// Serves UDP on a port of 127.0.0.1 forever.
///
/// # Errors
/// Returns an error if the argument is no port, or the port is taken.
pub fn serve(args: &[String]) -> io::Result<()> {
    let port: u16 = args.first().and_then(|port| port.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    batch::serve(&UdpSocket::bind(("127.0.0.1", port))?, |packet, len| {
        packet[2] |= RESPONSE;
        len
    })
}
