//! The floor: a program that derives each response over UDP from the name alone, in batches. Over TCP it reads everything
//! and never responds.
//!
//! It shows how the machine itself affects the honest client under the same load: the attacker, the client and the kernel's
//! work for their packets share CPUs.

use std::io;
use std::net::UdpSocket;
use std::thread;

use nodens::lab::zone::address_of;
use tokio::net::TcpListener;

use crate::batch::{self, PACKET};

/// Hidden argument that makes this program the floor; the port follows.
pub const FLOOR: &str = "be-the-floor";

/// Length of a message header, in bytes.
const HEADER: usize = 12;
/// Answer record up to its address: the name of the question, A, IN, TTL 60 s, four bytes.
const RECORD: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04";

/// Serves UDP and TCP on a port of 127.0.0.1 forever.
///
/// # Errors
/// Returns an error if the argument is no port, or the port is taken.
pub fn serve(args: &[String]) -> io::Result<()> {
    let port: u16 = args.first().and_then(|port| port.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port)))?;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                // A failed accept is retried.
                let Ok((mut stream, _)) = listener.accept().await else {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                };
                tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
            }
        });
    });
    batch::serve(&UdpSocket::bind(("127.0.0.1", port))?, |packet, len| answer(packet, len).unwrap_or(0))
}

/// Turns a query for one name into a response with the address that follows from the name.
fn answer(packet: &mut [u8; PACKET], len: usize) -> Option<usize> {
    let mut at = HEADER;
    let mut name = String::new();
    while *packet[..len].get(at)? > 0 {
        let end = at + 1 + usize::from(packet[at]);
        name.extend(packet[..len].get(at + 1..end)?.iter().map(|byte| char::from(*byte)));
        name.push('.');
        at = end;
    }
    let end = at + 5; // the root, type and class
    packet[..len].get(..end)?;
    packet[2] = packet[2] & 0x01 | 0x84; // RD unchanged; QR and AA
    packet[3] = 0;
    packet[4..HEADER].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    let record = packet.get_mut(end..end + RECORD.len() + 4)?;
    record[..RECORD.len()].copy_from_slice(RECORD);
    record[RECORD.len()..].copy_from_slice(&address_of(&name).octets());
    Some(end + RECORD.len() + 4)
}
