//! Log of the queries that a scripted server has received, of bounded size.

use std::collections::VecDeque;
use std::net::SocketAddr;

use hickory_proto::op::Message;
use tokio::time::Instant;

use crate::upstream::Transport;
use crate::wire::{HEADER, RrType, flag, name, option, rtype, u16_at};

/// Limit on the queries in a log; the oldest are dropped first.
pub const KEPT_QUERIES: usize = 8192;

/// Limit on the query bytes in a log; the oldest queries are dropped first.
pub const KEPT_BYTES: usize = 4 << 20;

/// A query as it reached a server.
#[derive(Clone, Debug)]
pub struct Seen {
    pub(crate) at: Instant,
    /// Transport that it arrived over.
    pub transport: Transport,
    /// Source address; shows whether the source port varies.
    pub client: SocketAddr,
    /// Bytes of the whole message, as received.
    pub wire: Vec<u8>,
    /// Id of the query, which the response must repeat.
    pub id: u16,
    /// Bytes 2 and 3 of the header, for [`flag`](mod@crate::wire::flag).
    pub flags: u16,
    /// Name in the question, absolute, in the letter case of the query; empty if it cannot be parsed.
    pub name: String,
    /// Type in the question; 0 if it cannot be parsed.
    pub qtype: RrType,
    /// Class in the question; 0 if it cannot be parsed.
    pub qclass: u16,
    /// OPT record, if there is one.
    pub edns: Option<SeenEdns>,
    /// End of the question; the end of the header if the question cannot be parsed.
    pub(super) question_end: usize,
}

/// OPT record of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenEdns {
    /// Advertised UDP payload size, in bytes.
    pub size: u16,
    /// Version of EDNS in the OPT record.
    pub version: u8,
    /// DO flag (DNSSEC OK).
    pub dnssec_ok: bool,
    /// Options in order: code and data.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Seen {
    /// Returns whether it asks for `name` (in any letter case, with or without the last dot) and `qtype`.
    pub fn asks(&self, name: &str, qtype: impl Into<RrType>) -> bool {
        self.qtype == qtype.into() && self.is_named(name)
    }

    /// Returns whether it asks for `name`, in any letter case, with or without the last dot.
    pub fn is_named(&self, name: &str) -> bool {
        bare(&self.name).eq_ignore_ascii_case(bare(name))
    }

    /// Returns whether it asks for `zone` or a name below it.
    pub fn is_within(&self, zone: &str) -> bool {
        let (name, zone) = (bare(&self.name).to_ascii_lowercase(), bare(zone).to_ascii_lowercase());
        zone.is_empty() || name == zone || name.strip_suffix(&zone).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Returns the RD flag (recursion desired).
    pub fn rd(&self) -> bool {
        self.flags & flag::RD != 0
    }

    /// Returns the CD flag (checking disabled).
    pub fn cd(&self) -> bool {
        self.flags & flag::CD != 0
    }

    /// Returns the AD flag, with which a client asks for authentic data (RFC 6840 section 5.7).
    pub fn ad(&self) -> bool {
        self.flags & flag::AD != 0
    }

    /// Returns the DO flag (DNSSEC OK).
    pub fn dnssec_ok(&self) -> bool {
        self.edns.as_ref().is_some_and(|edns| edns.dnssec_ok)
    }

    /// Returns the question as it lies in the message; empty if it cannot be parsed.
    pub fn question(&self) -> &[u8] {
        self.wire.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// Parses a query for the log; also returns it as a message if it is one.
    pub(super) fn read(wire: &[u8], client: SocketAddr, transport: Transport) -> (Self, Option<Message>) {
        let message = Message::from_vec(wire).ok();
        let question = message.as_ref().and_then(|message| message.queries.first());
        let question_end = question.and_then(|_| name::skip(wire, HEADER)).map_or(HEADER, |end| end + 4);
        let edns = message.as_ref().and_then(|message| message.edns.as_ref()).map(|edns| SeenEdns {
            size: edns.max_payload(),
            version: edns.version(),
            dnssec_ok: edns.flags().dnssec_ok,
            options: raw_options(wire, question_end),
        });
        let seen = Self {
            at: Instant::now(),
            transport,
            client,
            wire: wire.to_vec(),
            id: u16_at(wire, 0).unwrap_or_default(),
            flags: u16_at(wire, 2).unwrap_or_default(),
            name: question.map(|question| question.name().to_ascii()).unwrap_or_default(),
            qtype: question.map_or(rtype::RESERVED, |question| question.query_type().into()),
            qclass: question.map_or(0, |question| question.query_class().into()),
            edns,
            question_end,
        };
        (seen, message)
    }
}

/// Queries that a server has received.
#[derive(Debug, Default)]
pub(super) struct Log {
    kept: VecDeque<Seen>,
    bytes: usize,
    count: u64,
}

impl Log {
    pub(super) fn push(&mut self, seen: Seen) {
        self.count += 1;
        self.bytes += seen.wire.len();
        self.kept.push_back(seen);
        while self.kept.len() > KEPT_QUERIES || (self.bytes > KEPT_BYTES && self.kept.len() > 1) {
            self.bytes -= self.kept.pop_front().map_or(0, |oldest| oldest.wire.len());
        }
    }

    pub(super) fn all(&self) -> Vec<Seen> {
        self.kept.iter().cloned().collect()
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn bare(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Returns the options of the OPT record as bytes. The message is already parsed, so bytes that cannot be walked are left out.
fn raw_options(wire: &[u8], question_end: usize) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    let mut at = question_end;
    while let Some(fixed) = name::skip(wire, at) {
        let (Some(kind), Some(length)) = (u16_at(wire, fixed), u16_at(wire, fixed + 8)) else { break };
        at = fixed + 10 + usize::from(length);
        if rtype::OPT != kind.into() {
            continue;
        }
        let mut options = wire.get(fixed + 10..at).unwrap_or_default();
        while let (Some(code), Some(length)) = (u16_at(options, 0), u16_at(options, 2)) {
            let end = 4 + usize::from(length);
            found.push((code, options.get(4..end).unwrap_or_default().to_vec()));
            options = options.get(end..).unwrap_or_default();
        }
    }
    found
}

/// An extended DNS error (RFC 8914) for a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    pub(crate) code: u16,
    /// Extra text; may be empty.
    pub text: String,
}

impl ExtendedError {
    /// Option code of extended errors.
    pub(super) const OPTION: u16 = option::EDE;

    /// Returns the option's data.
    pub(super) fn data(&self) -> Vec<u8> {
        [&self.code.to_be_bytes()[..], self.text.as_bytes()].concat()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn seen(wire: &[u8]) -> Seen {
        Seen::read(wire, "127.0.0.1:4000".parse().unwrap(), Transport::Udp).0
    }

    #[test]
    fn a_log_keeps_the_newest_queries_and_counts_all() {
        let mut log = Log::default();
        for id in 0..KEPT_QUERIES as u32 + 10 {
            log.push(seen(&[(id >> 8) as u8, id as u8]));
        }
        assert_eq!(log.count(), KEPT_QUERIES as u64 + 10);
        assert_eq!(log.all().len(), KEPT_QUERIES);
        assert_eq!(log.all()[0].id, 10);
        for _ in 0..100 {
            log.push(seen(&[0; 65_535]));
        }
        assert!(log.all().iter().map(|seen| seen.wire.len()).sum::<usize>() <= KEPT_BYTES);
        log.clear();
        assert_eq!((log.count(), log.all().len()), (0, 0));
    }

    #[test]
    fn names_compare_without_letter_case_and_last_dot() {
        let wire = b"\0\x01\x01\x00\0\x01\0\0\0\0\0\0\x03wWw\x07Example\0\0\x01\0\x01";
        let seen = seen(wire);
        assert_eq!(seen.name, "wWw.Example.");
        assert!(seen.asks("www.example", 1) && !seen.asks("www.example", 28));
        assert!(seen.is_within("example.") && seen.is_within(".") && seen.is_within("www.example"));
        assert!(!seen.is_within("ample"));
        assert_eq!(seen.question(), &wire[12..]);
        assert!(seen.rd() && !seen.cd() && !seen.ad() && !seen.dnssec_ok());
    }
}
