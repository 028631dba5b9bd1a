//! An upstream whose answers take a connection: over UDP each response is truncated. Over TCP, names that begin with `slow` are answered
//! late, and those that begin with `half` never to the end.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::{RData, Record};
use nodens::lab::zone::address_of;

use crate::batch;
use crate::packets::framed;

/// The zone.
pub const LINKS: &str = "links.example";
/// How long a slow answer takes.
const SLOWNESS: Duration = Duration::from_millis(1_200);
/// QR and TC, in the third byte of a message.
const TRUNCATED: u8 = 0x82;
/// Number of queries received over UDP: one for each query over TCP, if the server asks over UDP first.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Starts it on a free port of 127.0.0.1, in threads that live as long as this process.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let socket = UdpSocket::bind(address)?;
    thread::spawn(move || {
        batch::serve(&socket, |packet, len| {
            SEEN.fetch_add(1, Ordering::Relaxed);
            packet[2] |= TRUNCATED;
            len
        })
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that closes is no fault of this server.
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

/// Number of queries received over UDP so far.
pub fn seen() -> u64 {
    SEEN.load(Ordering::Relaxed)
}

/// Answers on one connection until the client closes it.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let out = Arc::new(Mutex::new(stream.try_clone()?));
    let write = |out: &Mutex<TcpStream>, bytes: &[u8]| {
        out.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes) // whole messages, one after the other
    };
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message)?;
        let mut reply = Message::from_vec(&message).map_err(io::Error::other)?;
        let Some(name) = reply.queries.first().map(|query| query.name().clone()) else { continue };
        let text = name.to_ascii().to_ascii_lowercase();
        reply.metadata.message_type = MessageType::Response;
        reply.edns = None;
        reply.answers.push(Record::from_rdata(name, 300, RData::A(address_of(&text).into())));
        let frame = framed(&reply.to_vec().map_err(io::Error::other)?);
        if text.starts_with("slow") {
            let out = Arc::clone(&out);
            thread::spawn(move || {
                sleep(SLOWNESS);
                write(&out, &frame)
            });
        } else if text.starts_with("half") {
            write(&out, &frame[..frame.len() / 2])?;
            // Nothing follows, so the client must give this connection up.
            return io::copy(&mut stream, &mut io::sink()).map(|_| ());
        } else {
            write(&out, &frame)?;
        }
    }
}
