//! Every fault of the first of two servers, over IPv4 and IPv6, for clients over UDP and TCP: each query gets its right
//! answer, and the second server gets at most 1.1 times as many queries, and 32 more.
//!
//! One process serves all cells; each cell is a route with its own two servers. The cells run in parallel. No check
//! depends on timing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use crate::support::client::{A, Tcp, data, id, query, receive, udp};
use crate::support::{Nodens, restart, stop, upstream_on};
use nodens::lab::fault::{Behaviour, Forgery, Tcp as LabTcp};
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::{LabZone, address_of};

/// Queries of a cell.
const QUERIES: u16 = 120;
/// Queries before a fault that is not there from the start.
const BEFORE: u16 = 30;
/// Queries between two changes of a server that flaps.
const FLAP: u16 = 12;
/// Latency of a server.
const LATENCY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    SilentFromTheStart,
    GoesSilent,
    PortClosed,
    Servfail,
    Refused,
    TenTimesSlower,
    Loses30Percent,
    Garbage,
    WrongPort,
    TruncatesWithDeadTcp,
    Flaps,
}

const FAULTS: [Fault; 11] = [
    Fault::SilentFromTheStart,
    Fault::GoesSilent,
    Fault::PortClosed,
    Fault::Servfail,
    Fault::Refused,
    Fault::TenTimesSlower,
    Fault::Loses30Percent,
    Fault::Garbage,
    Fault::WrongPort,
    Fault::TruncatesWithDeadTcp,
    Fault::Flaps,
];

impl Fault {
    /// Applies the change that is due before query `number`.
    fn strike(self, server: &LabUpstream, number: u16) {
        let begins = number == if self == Self::SilentFromTheStart { 0 } else { BEFORE };
        match self {
            Self::Flaps if number == QUERIES - 1 => server.set(Behaviour::normal()),
            Self::Flaps if (number / FLAP) % 2 == 1 => server.set(Behaviour::silent()),
            Self::Flaps => server.set(Behaviour::normal()),
            _ if !begins => {}
            Self::SilentFromTheStart | Self::GoesSilent => server.set(Behaviour::silent()),
            Self::PortClosed => stop(server),
            Self::Servfail => server.set(Behaviour::rcode(2)),
            Self::Refused => server.set(Behaviour::rcode(5)),
            Self::TenTimesSlower => server.set(Behaviour::normal().slower(10)),
            Self::Loses30Percent => server.set(Behaviour::normal().lose_percent(30, 7)),
            Self::Garbage => server.set(Behaviour::bytes(*b"\xff\x00 this is no message of DNS")),
            Self::WrongPort => server.set(Behaviour::forged(Forgery::OtherPort)),
            Self::TruncatesWithDeadTcp => server.set(Behaviour::truncated().tcp(LabTcp::Silent)),
        }
    }
}

struct Cell {
    name: String,
    fault: Fault,
    tcp: bool,
    faulty: LabUpstream,
    healthy: LabUpstream,
}

impl Cell {
    fn new(fault: Fault, address: IpAddr, tcp: bool) -> Self {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let name = format!("{fault:?}-{family}-{}", if tcp { "tcp" } else { "udp" }).to_lowercase();
        let server = || {
            let server = upstream_on((address, 0).into(), LabZone::new("example.").addresses_from_names());
            server.set_latency(LATENCY);
            server
        };
        Self { name, fault, tcp, faulty: server(), healthy: server() }
    }

    /// Returns the configuration of this cell.
    fn config(&self) -> String {
        let Self { name, faulty, healthy, .. } = self;
        let servers = [faulty, healthy].map(|server| server.address().to_string());
        format!(
            "[upstreams.{name}]\nservers = {servers:?}\ndeadline = \"20s\"\n\
             [[route]]\nzones = [\"{name}.example\"]\nto = \"{name}\"\n"
        )
    }

    fn run(&self, nodens: &Nodens) {
        let (socket, mut stream) = (udp(nodens.address()), self.tcp.then(|| Tcp::connect(nodens.address())));
        for number in 0..QUERIES {
            self.fault.strike(&self.faulty, number);
            let name = format!("{number}.{}.example", self.name);
            let query = query(number, &name, A);
            let response = match &mut stream {
                Some(stream) => stream.ask(&query),
                None => ask(&socket, &query),
            };
            assert_eq!(data(&response), [address_of(&name).to_string()], "{name}");
        }
        let asked = |server: &LabUpstream| server.seen().iter().filter(|seen| u16::from(seen.qtype) == A).count();
        let most = f64::from(QUERIES) * 1.1 + 32.0;
        let (faulty, healthy) = (asked(&self.faulty), asked(&self.healthy));
        println!("{}: the faulty server was asked {faulty} times, the healthy one {healthy} times", self.name);
        assert!(healthy as f64 <= most, "{}: {healthy} queries for {QUERIES}", self.name);
        // The healthy server was queried for everything that the faulty one did not answer.
        let answered = match self.fault {
            Fault::SilentFromTheStart => 0,
            Fault::Loses30Percent | Fault::TenTimesSlower | Fault::Flaps => QUERIES,
            _ => BEFORE,
        };
        assert!(healthy >= usize::from(QUERIES - answered), "{}: {healthy} queries for {QUERIES}", self.name);
        if self.fault == Fault::PortClosed {
            restart(&self.faulty);
        }
    }
}

fn ask(socket: &UdpSocket, query: &[u8]) -> Vec<u8> {
    socket.send(query).expect("sends");
    let response = receive(socket);
    assert_eq!(id(&response), id(query));
    response
}

#[test]
fn every_fault_of_one_server_is_failed_over() {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => addresses.push(Ipv6Addr::LOCALHOST.into()),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "skipped: no IPv6, which CI must have: {error}");
            println!("skipped: IPv6: {error}");
        }
    }
    let mut cells = Vec::new();
    for fault in FAULTS {
        for address in &addresses {
            cells.extend([false, true].map(|tcp| Cell::new(fault, *address, tcp)));
        }
    }
    let parts: String = cells.iter().map(Cell::config).collect();
    let rest = cells[0].name.clone();
    let config = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n{parts}\
         [[route]]\nzones = [\".\"]\nto = \"{rest}\"\n"
    );
    let nodens = Nodens::start(&config);
    std::thread::scope(|scope| {
        let runs: Vec<_> = cells.iter().map(|cell| scope.spawn(|| cell.run(&nodens))).collect();
        runs.into_iter().for_each(|run| run.join().expect("every query has its right answer"));
    });
    let queries = cells.len() * usize::from(QUERIES);
    nodens.metric_becomes("nodens_responses_total", &[("rcode", "NOERROR")], |count| count == queries as f64);
    assert_eq!(nodens.metric("nodens_responses_total", &[("rcode", "SERVFAIL")]), 0.0);
}
