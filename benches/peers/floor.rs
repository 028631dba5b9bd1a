//! The floor: a server that only turns each packet round, in batches.
//!
//! No server can spend less on a packet that comes and one that goes on this kernel, short of going round it; what a
//! server spends beyond is its own doing. Over TCP one read may bring many queries, so that a server may spend less there.

use std::io;
use std::net::UdpSocket;

use crate::batch;

/// The hidden argument that makes this program the floor; the port follows.
pub const FLOOR: &str = "be-the-floor";

/// QR, in the third byte of a message: it is a response.
const RESPONSE: u8 = 0x80;

/// Serves UDP on a port of 127.0.0.1 for ever.
///
/// # Errors
/// The port is not one, or taken.
pub fn serve(args: &[String]) -> io::Result<()> {
    let port: u16 = args.first().and_then(|port| port.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    batch::serve(&UdpSocket::bind(("127.0.0.1", port))?, |packet, len| {
        packet[2] |= RESPONSE;
        len
    })
}
