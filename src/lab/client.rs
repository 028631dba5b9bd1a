//! A client that sends one query and measures the time until the response.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::seen::ExtendedError;
use crate::upstream::Transport;
use crate::wire::{ADVERTISED_SIZE, u16_at};

/// Time limit for a response.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A question and the transport for it.
#[derive(Clone, Debug)]
pub struct LabQuery {
    name: Name,
    qtype: RecordType,
    transport: Transport,
}

/// A response to the lab's client, and the time that it took.
#[derive(Clone, Debug)]
pub struct LabResponse {
    /// The response, parsed by the independent DNS library.
    pub message: Message,
    /// Message in wire format.
    pub wire: Vec<u8>,
    /// Time from the query to the response.
    pub took: Duration,
}

impl LabQuery {
    /// Creates a question over UDP, its type given by mnemonic: `LabQuery::new("www.example.com", "AAAA")`.
    ///
    /// # Errors
    /// `InvalidInput` if the name or the type is invalid.
    pub fn new(name: &str, qtype: &str) -> io::Result<Self> {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
        let mut name = Name::from_ascii(name).map_err(|error| invalid(error.to_string()))?;
        name.set_fqdn(true);
        let qtype = RecordType::from_str(qtype).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { name, qtype, transport: Transport::Udp })
    }

    /// Changes the transport to TCP.
    pub fn over_tcp(self) -> Self {
        Self { transport: Transport::Tcp, ..self }
    }
}

impl LabResponse {
    /// Returns the response code, including its upper bits.
    pub fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// Returns the data of the answer section as text, in order.
    pub fn data(&self) -> Vec<String> {
        self.message.answers.iter().map(|record| record.data.to_string()).collect()
    }

    /// Returns the lowest TTL in the answer section, in seconds.
    pub fn ttl(&self) -> Option<u32> {
        self.message.answers.iter().map(|record| record.ttl).min()
    }

    /// Returns the info-code of the first extended error (RFC 8914).
    pub fn extended_error(&self) -> Option<u16> {
        match self.message.edns.as_ref()?.option(EdnsCode::from(ExtendedError::OPTION))? {
            EdnsOption::Unknown(_, data) => u16_at(data, 0),
            _ => None,
        }
    }

    /// Returns the answer in a few words: the data, or the reason why there is none.
    pub fn summary(&self) -> String {
        let mut words = match self.message.answers.len() {
            0 => match self.rcode() {
                ResponseCode::NoError => "no data".to_owned(),
                ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
                other => other.to_str().to_owned(),
            },
            1..=3 => self.data().join(", "),
            many => format!("{many} records"),
        };
        if self.message.metadata.truncation {
            words += ", truncated";
        }
        if let Some(code) = self.extended_error() {
            words += &format!(" (EDE {code})");
        }
        words
    }
}

/// Sends a query with an OPT record to `server`. Over UDP, messages that do not match the query are ignored.
///
/// # Errors
/// `TimedOut` after [`PATIENCE`]; the system's error if the server cannot be reached; `InvalidData` for a response over
/// TCP that cannot be parsed or does not match the query.
pub async fn ask(server: SocketAddr, question: &LabQuery) -> io::Result<LabResponse> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(question.name.clone(), question.qtype));
    let mut edns = Edns::new();
    edns.set_max_payload(ADVERTISED_SIZE);
    query.set_edns(edns);
    let wire = query.to_vec().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let start = Instant::now();
    let exchange = async {
        match question.transport {
            Transport::Udp => over_udp(server, &query, &wire).await,
            Transport::Tcp | Transport::Tls => over_tcp(server, &query, &wire).await,
        }
    };
    let (message, wire) = timeout(PATIENCE, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(LabResponse { message, wire, took: start.elapsed() })
}

async fn over_udp(server: SocketAddr, query: &Message, wire: &[u8]) -> io::Result<(Message, Vec<u8>)> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(wire).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(message) = matching(&buffer[..length], query) {
            return Ok((message, buffer[..length].to_vec()));
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Message, wire: &[u8]) -> io::Result<(Message, Vec<u8>)> {
    let mut stream = TcpStream::connect(server).await?;
    let length = wire.len() as u16; // one question and an OPT record: a few hundred bytes at most
    stream.write_all(&[&length.to_be_bytes()[..], wire].concat()).await?;
    let mut response = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut response).await?;
    let message = matching(&response, query).ok_or(io::ErrorKind::InvalidData)?;
    Ok((message, response))
}

fn matching(wire: &[u8], query: &Message) -> Option<Message> {
    let message = Message::from_vec(wire).ok()?;
    (message.metadata.id == query.metadata.id && message.queries == query.queries).then_some(message)
}
