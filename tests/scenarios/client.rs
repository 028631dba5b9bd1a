//! Clients: queries described by words and sent over real sockets, responses read without blocking.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;

use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::script::{Options, hex};

/// A query and its socket.
pub(crate) struct Client {
    /// The query, without the length prefix of TCP.
    pub(crate) query: Vec<u8>,
    /// Time at which the query was sent.
    pub(crate) sent: Instant,
    socket: Socket,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
}

impl Client {
    /// Sends the query that `words` describe.
    pub(crate) fn send(server: SocketAddr, words: &[String], id: u16) -> Self {
        let tcp = words.iter().any(|word| word == "tcp");
        let from = words.iter().find_map(|word| word.strip_prefix("from="));
        let from: Ipv4Addr = from.map_or(Ipv4Addr::LOCALHOST, |address| address.parse().expect("an address"));
        let own = |word: &&String| *word != "tcp" && !word.starts_with("from=");
        let words: Vec<_> = words.iter().filter(own).cloned().collect();
        let query = match words.first().and_then(|word| word.strip_prefix("hex=")) {
            Some(bytes) => hex(bytes),
            None => build(&words, id),
        };
        let socket = if tcp {
            let mut stream = TcpStream::connect(server).expect("nodens listens");
            stream.set_nonblocking(true).expect("a socket");
            let framed = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
            stream.write_all(&framed).expect("a small query fits");
            Socket::Tcp(stream, Vec::new())
        } else {
            let socket = UdpSocket::bind((from, 0)).expect("a port");
            socket.connect(server).expect("an address");
            socket.set_nonblocking(true).expect("a socket");
            socket.send(&query).expect("nodens listens");
            Socket::Udp(socket)
        };
        Self { query, sent: Instant::now(), socket }
    }

    /// Returns the response, if it has come.
    pub(crate) fn response(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_537];
        match &mut self.socket {
            Socket::Udp(socket) => match socket.recv(&mut buffer) {
                Ok(len) => Some(buffer[..len].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("no reply: {error}"),
            },
            Socket::Tcp(stream, came) => {
                match stream.read(&mut buffer) {
                    Ok(0) => panic!("the connection ended"),
                    Ok(len) => came.extend_from_slice(&buffer[..len]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                    Err(error) => panic!("no reply: {error}"),
                }
                let length = usize::from(u16::from_be_bytes([*came.first()?, *came.get(1)?]));
                came.get(2..2 + length).map(<[u8]>::to_vec)
            }
        }
    }
}

/// Returns the number of a type, given as mnemonic or as `TYPE65280`.
pub(crate) fn rtype(text: &str) -> u16 {
    match text.strip_prefix("TYPE").and_then(|number| number.parse().ok()) {
        Some(number) => number,
        None if text == "IXFR" => nodens::wire::rtype::IXFR.into(),
        None => RecordType::from_str(text).unwrap_or_else(|_| panic!("{text}: not a type")).into(),
    }
}

/// Builds a query: `NAME TYPE`, then any of `id= class= opcode= qdcount= -rd cd ad z`, and `edns=SIZE` with any of `do
/// version= option=CODE:HEX`. Each of the last three implies `edns=1232` if there is no `edns=`.
fn build(words: &[String], id: u16) -> Vec<u8> {
    let [name, kind, rest @ ..] = words else { panic!("a query has a name and a type") };
    let mut options = Options::new(rest);
    let id = options.number("id").unwrap_or(id);
    let mut flags = options.number("opcode").unwrap_or(0) << 11;
    for (word, bit) in [("cd", 0x10), ("ad", 0x20), ("z", 0x40)] {
        flags |= if options.flag(word) { bit } else { 0 };
    }
    flags |= if options.flag("-rd") { 0 } else { 0x100 };
    let class: u16 = match options.value("class") {
        None => 1,
        Some("CH") => 3,
        Some(number) => number.parse().expect("a class"),
    };
    let dnssec_ok = options.flag("do");
    let version = options.number("version");
    let option = options.value("option").map(|text| text.split_once(':').expect("option=CODE:HEX"));
    let size = options.number("edns");
    let edns = dnssec_ok || version.is_some() || option.is_some() || size.is_some();
    let questions = options.number("qdcount").unwrap_or(1);
    options.close();

    let mut wire = Vec::new();
    for word in [id, flags, questions, 0, 0, u16::from(edns)] {
        wire.extend(word.to_be_bytes());
    }
    for _ in 0..questions {
        for label in name.split('.').filter(|label| !label.is_empty()) {
            wire.push(label.len() as u8);
            wire.extend(label.as_bytes());
        }
        wire.push(0);
        wire.extend(rtype(kind).to_be_bytes());
        wire.extend(class.to_be_bytes());
    }
    if edns {
        wire.extend([0, 0, 41]);
        wire.extend(size.unwrap_or(1232).to_be_bytes());
        wire.extend([0, version.unwrap_or(0) as u8, u8::from(dnssec_ok) << 7, 0]);
        let mut data = Vec::new();
        if let Some((code, bytes)) = option {
            let bytes = hex(bytes);
            data.extend(code.parse::<u16>().expect("a code").to_be_bytes());
            data.extend((bytes.len() as u16).to_be_bytes());
            data.extend(bytes);
        }
        wire.extend((data.len() as u16).to_be_bytes());
        wire.extend(data);
    }
    wire
}
