//! An upstream whose answers need a connection: each response over UDP is truncated. Over TCP, the response for a name that
//! begins with `slow` is late, and the one for a name that begins with `half` ends after half its bytes.

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

/// Zone of the upstream.
pub const LINKS: &str = "links.example";
/// Delay of a slow response.
const SLOWNESS: Duration = Duration::from_millis(1_200);
/// QR and TC, in the third byte of a message.
const TRUNCATED: u8 = 0x82;
/// Number of queries received over UDP: one for each query over TCP, if the server tries UDP first.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Starts the upstream on a free port of 127.0.0.1, in threads that live as long as this process.
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
            // An error only means that the client closed the connection.
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

/// Returns the number of queries received over UDP so far.
pub fn seen() -> u64 {
    SEEN.load(Ordering::Relaxed)
}

/// Serves one connection until the client closes it.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let out = Arc::new(Mutex::new(stream.try_clone()?));
    let write = |out: &Mutex<TcpStream>, bytes: &[u8]| {
        out.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes) // one whole message at a time
    };
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message)?;
        let mut response = Message::from_vec(&message).map_err(io::Error::other)?;
        let Some(name) = response.queries.first().map(|query| query.name().clone()) else { continue };
        let text = name.to_ascii().to_ascii_lowercase();
        response.metadata.message_type = MessageType::Response;
        response.edns = None;
        response.answers.push(Record::from_rdata(name, 300, RData::A(address_of(&text).into())));
        let frame = framed(&response.to_vec().map_err(io::Error::other)?);
        if text.starts_with("slow") {
            let out = Arc::clone(&out);
            thread::spawn(move || {
                sleep(SLOWNESS);
                write(&out, &frame)
            });
        } else if text.starts_with("half") {
            write(&out, &frame[..frame.len() / 2])?;
            // Nothing follows: the client has to give up this connection.
            return io::copy(&mut stream, &mut io::sink()).map(|_| ());
        } else {
            write(&out, &frame)?;
        }
    }
}
