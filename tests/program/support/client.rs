//! A client that sends and receives raw DNS messages over UDP and TCP.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use socket2::{Domain, Socket, Type};

use super::DEADLINE;

/// Record type of IPv4 addresses.
pub(crate) const A: u16 = 1;
/// Option code of edns-tcp-keepalive (RFC 7828).
pub(crate) const KEEPALIVE: u16 = 11;
/// Option code of Extended DNS Errors (RFC 8914).
pub(crate) const EXTENDED_ERROR: u16 = 15;

/// Returns a query of class IN with RD and without an OPT record.
pub(crate) fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    message(id, name, qtype).to_vec().expect("a message")
}

/// Returns a query for an IPv4 address with this option in its OPT record.
pub(crate) fn query_with_option(id: u16, name: &str, option: u16) -> Vec<u8> {
    let mut message = message(id, name, A);
    let mut edns = Edns::new();
    edns.set_max_payload(1_232);
    edns.options_mut().insert(EdnsOption::Unknown(option, Vec::new()));
    message.set_edns(edns);
    message.to_vec().expect("a message")
}

fn message(id: u16, name: &str, qtype: u16) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::from(qtype)));
    message
}

/// Parses a response.
pub(crate) fn parse(wire: &[u8]) -> Message {
    Message::from_vec(wire).unwrap_or_else(|error| panic!("{error}: {wire:02x?}"))
}

/// Returns the response code of a message.
pub(crate) fn code(wire: &[u8]) -> ResponseCode {
    parse(wire).metadata.response_code
}

/// Returns the id of a message.
pub(crate) fn id(wire: &[u8]) -> u16 {
    u16::from_be_bytes([wire[0], wire[1]])
}

/// Returns the data of all answer records as text.
pub(crate) fn data(wire: &[u8]) -> Vec<String> {
    parse(wire).answers.iter().map(|record| record.data.to_string()).collect()
}

/// Returns the data of an option of the OPT record.
pub(crate) fn option(wire: &[u8], code: u16) -> Option<Vec<u8>> {
    match parse(wire).edns?.option(EdnsCode::from(code))? {
        EdnsOption::Unknown(_, data) => Some(data.clone()),
        other => panic!("{other:?} is known"),
    }
}

/// Returns the text of the extended error; the query must have had an OPT record.
pub(crate) fn extended_error(wire: &[u8]) -> String {
    let error = option(wire, EXTENDED_ERROR).expect("an extended error");
    String::from_utf8_lossy(error.get(2..).expect("a code")).into_owned()
}

/// Returns a UDP socket connected to this server.
pub(crate) fn udp(server: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(server).expect("a way there");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket
}

/// Receives the next datagram.
pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = loop {
        match socket.recv(&mut buffer) {
            // The process was stopped for a moment.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result.expect("a reply"),
        }
    };
    buffer.truncate(length);
    buffer
}

/// Sends a query over UDP and waits for the response.
pub(crate) fn ask_udp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = udp(server);
    socket.send(query).expect("sends");
    let response = receive(&socket);
    assert_eq!(id(&response), id(query));
    response
}

/// Asks for an IPv4 address over UDP.
pub(crate) fn lookup(server: SocketAddr, name: &str) -> Vec<u8> {
    ask_udp(server, &query(0x1234, name, A))
}

/// A TCP connection to a server.
pub(crate) struct Tcp(pub(crate) TcpStream);

impl Tcp {
    pub(crate) fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&server, DEADLINE).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self(stream)
    }

    /// Sends bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("writes");
    }

    /// Sends a message with its length prefix.
    pub(crate) fn send(&mut self, message: &[u8]) {
        self.write(&framed(message));
    }

    /// Closes the sending direction.
    pub(crate) fn half_close(&self) {
        self.0.shutdown(Shutdown::Write).expect("a shutdown");
    }

    /// Receives the next message; `None` if the server has closed the connection.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        match self.0.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("neither a reply nor an end: {error}"),
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut message).expect("a whole message");
        Some(message)
    }

    /// Receives the next message; panics if the connection is closed.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        self.next().expect("a reply, but the connection was closed")
    }

    /// Sends a query and waits for the response.
    pub(crate) fn ask(&mut self, query: &[u8]) -> Vec<u8> {
        self.send(query);
        let response = self.receive();
        assert_eq!(id(&response), id(query));
        response
    }
}

/// Returns a message with its length prefix.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message].concat()
}

/// Connects to a server from this client address.
pub(crate) fn connect_from(client: impl Into<IpAddr>, server: SocketAddr) -> Tcp {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(client.into(), 0).into()).expect("an own address");
    socket.connect(&server.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    Tcp(stream)
}
