//! Visits of the honest client: queries over TCP and requests for the health of the server, each on a connection of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Socket, Type};

use crate::honest::CLIENT;
use crate::packets::{A, framed, query};
use crate::scene::cached;

/// Interval between two visits of the same kind.
const PAUSE: Duration = Duration::from_millis(250);
/// Timeout of connecting, and of each read.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Results of visits: queries over TCP for a cached name, and requests for `/healthz` if there are admin pages.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Visits {
    /// Visits made.
    pub made: u64,
    /// Visits without an answer within 2 s, or with an error.
    pub failed: u64,
}

/// Makes visits until the attack is over.
pub fn make(server: SocketAddr, admin: Option<SocketAddr>, over: &AtomicBool) -> Visits {
    let mut visits = Visits::default();
    let message = framed(&query(7, &cached(0), A));
    while !over.load(Ordering::Relaxed) {
        let since = Instant::now();
        // After the length and the ID come two bytes of flags; the low bits of the second are the response code.
        visits.count(ask(server, &message).map(|response| response.get(5).is_some_and(|byte| byte & 0x0f == 0)));
        if let Some(admin) = admin {
            let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            visits.count(ask(admin, request).map(|response| response.starts_with(b"HTTP/1.1 200")));
        }
        sleep(PAUSE.saturating_sub(since.elapsed()));
    }
    visits
}

impl Visits {
    fn count(&mut self, well: io::Result<bool>) {
        self.made += 1;
        self.failed += u64::from(!well.unwrap_or(false));
    }
}

/// Sends a request on a new connection; returns the first bytes of the answer.
fn ask(to: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(CLIENT.into(), 0).into())?;
    socket.connect_timeout(&to.into(), TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(request)?;
    let mut response = vec![0; 512];
    let length = stream.read(&mut response)?;
    response.truncate(length);
    Ok(response)
}
