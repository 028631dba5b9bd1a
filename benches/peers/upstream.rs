//! The upstream of all servers: nsd if it is installed, or else a small responder with one answer for A and one for AAAA.

use std::io;
use std::net::UdpSocket;
use std::path::Path;

use crate::ask::{HIT_NAMES, ZONE, hit_name};
use crate::batch::{self, PACKET};
use crate::server::Server;

/// Hidden argument that makes this program the upstream; the port follows.
pub const UPSTREAM: &str = "be-the-upstream";

/// Upstream if it is installed. Its zone is beside its configuration.
pub const NSD: Server = Server {
    args: &["-d", "-c", "%FILE%"],
    version: Some("-v"),
    config: Some(("nsd.conf", include_str!("nsd.conf"))),
    ..Server::new("nsd", Some("nsd"))
};

/// Upstream if nsd is not installed.
pub const RESPONDER: Server = Server { args: &[UPSTREAM, "%PORT%"], ..Server::new("a built-in responder", None) };

/// TTL of all records, in seconds, longer than any run.
const TTL: u32 = 3_600;

/// Writes nsd's zone: an address of each kind for each name of the hits, and for any name below `new`.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write_zone(file: &Path) -> io::Result<()> {
    let mut zone =
        format!("$ORIGIN {ZONE}.\n$TTL {TTL}\n@ SOA ns admin 1 3600 600 86400 300\n@ NS ns\nns A 192.0.2.53\n");
    for name in (0..HIT_NAMES).map(hit_name).chain(["*.new".to_owned()]) {
        zone += &format!("{name} A 192.0.2.1\n{name} AAAA 2001:db8::1\n");
    }
    std::fs::write(file, zone)
}

/// Serves UDP on a port of 127.0.0.1 forever.
///
/// # Errors
/// Returns an error if the argument is no port, or the port is taken.
pub fn serve(args: &[String]) -> io::Result<()> {
    let port: u16 = args.first().and_then(|port| port.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    batch::serve(&UdpSocket::bind(("127.0.0.1", port))?, |packet, len| answer(packet, len).unwrap_or(0))
}

/// Turns a query for one name into its response: the question, and an address if its type is A or AAAA.
fn answer(packet: &mut [u8; PACKET], len: usize) -> Option<usize> {
    const HEADER: usize = 12;
    let mut at = HEADER;
    while *packet[..len].get(at)? > 0 {
        at += 1 + usize::from(packet[at]);
    }
    let end = at + 5; // the root, type and class
    let kind = packet[..len].get(at + 1..end)?[1];
    let address: &[u8] = match kind {
        1 => &[192, 0, 2, 1],
        28 => &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        _ => &[],
    };
    packet[2] = packet[2] & 0x01 | 0x84; // RD unchanged; QR and AA
    packet[3] = 0;
    packet[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(!address.is_empty()), 0, 0, 0, 0]);
    if address.is_empty() {
        return Some(end);
    }
    let record = &mut packet[end..end + 12 + address.len()];
    record[..6].copy_from_slice(&[0xc0, HEADER as u8, 0, kind, 0, 1]);
    record[6..10].copy_from_slice(&TTL.to_be_bytes());
    record[10..12].copy_from_slice(&(address.len() as u16).to_be_bytes());
    record[12..].copy_from_slice(address);
    Some(end + 12 + address.len())
}
