//! The floor: a program that answers each query over UDP at once from nothing but its name, in batches, and reads over TCP
//! what comes without ever answering.
//!
//! Under the same load it shows what the machine itself does to the honest client: the attacker, the client and the kernel's
//! work for their packets share CPUs.

use std::io;
use std::net::UdpSocket;
use std::thread;

use nodens::lab::zone::address_of;
use tokio::net::TcpListener;

use crate::batch::{self, PACKET};

/// The hidden argument that makes this program the floor; the port follows.
pub const FLOOR: &str = "be-the-floor";

/// Bytes of a message's header.
const HEADER: usize = 12;
/// The record of an answer up to its address: the name of the question, A, IN, a minute, four bytes.
const RECORD: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04";

/// Serves UDP and TCP on a port of 127.0.0.1 for ever.
///
/// # Errors
/// The port is not one, or taken.
pub fn serve(args: &[String]) -> io::Result<()> {
    let port: u16 = args.first().and_then(|port| port.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port)))?;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                // What cannot be accepted now may be later.
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

/// Turns a query for one name into a response with the address that follows from its name.
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
    packet[2] = packet[2] & 0x01 | 0x84; // RD as it was; QR and AA
    packet[3] = 0;
    packet[4..HEADER].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    let record = packet.get_mut(end..end + RECORD.len() + 4)?;
    record[..RECORD.len()].copy_from_slice(RECORD);
    record[RECORD.len()..].copy_from_slice(&address_of(&name).octets());
    Some(end + RECORD.len() + 4)
}
