//! What a scripted upstream saw: every query as it arrived, kept within a bound.

use std::collections::VecDeque;
use std::net::SocketAddr;

use hickory_proto::op::Message;
use tokio::time::Instant;

use crate::upstream::Transport;
use crate::wire::{HEADER, RrType, flag, name, option, rtype, u16_at};

/// The most queries that a log keeps; older ones are forgotten first.
pub const KEPT_QUERIES: usize = 8192;

/// The most query bytes that a log keeps; older queries are forgotten first.
pub const KEPT_BYTES: usize = 4 << 20;

/// One query as it reached an upstream.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it arrived.
    pub at: Instant,
    /// How it came.
    pub transport: Transport,
    /// Where it came from: whether its source port varies can be read here.
    pub client: SocketAddr,
    /// The whole message.
    pub wire: Vec<u8>,
    /// Its id.
    pub id: u16,
    /// Bytes 2 and 3 of its header, for [`flag`](mod@crate::wire::flag).
    pub flags: u16,
    /// The name asked for, absolute, in the letter case that it arrived in; empty if it could not be read.
    pub name: String,
    /// The type asked for; 0 if it could not be read.
    pub qtype: RrType,
    /// The class asked for; 0 if it could not be read.
    pub qclass: u16,
    /// Its OPT record, if it had one.
    pub edns: Option<SeenEdns>,
    /// Where its question ends; the header's end if it could not be read.
    pub(super) question_end: usize,
}

/// The OPT record of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenEdns {
    /// The UDP payload size that it advertises, in bytes.
    pub size: u16,
    /// Its version.
    pub version: u8,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
    /// Its options in order: code and data.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Seen {
    /// Whether it asks for `name` (in any letter case, with or without the last dot) and `qtype`.
    pub fn asks(&self, name: &str, qtype: impl Into<RrType>) -> bool {
        self.qtype == qtype.into() && self.is_named(name)
    }

    /// Whether it asks for `name`, in any letter case, with or without the last dot.
    pub fn is_named(&self, name: &str) -> bool {
        bare(&self.name).eq_ignore_ascii_case(bare(name))
    }

    /// Whether it asks for `zone` or a name below it.
    pub fn is_within(&self, zone: &str) -> bool {
        let (name, zone) = (bare(&self.name).to_ascii_lowercase(), bare(zone).to_ascii_lowercase());
        zone.is_empty() || name == zone || name.strip_suffix(&zone).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Recursion desired.
    pub fn rd(&self) -> bool {
        self.flags & flag::RD != 0
    }

    /// Checking disabled.
    pub fn cd(&self) -> bool {
        self.flags & flag::CD != 0
    }

    /// Authentic data, as a wish (RFC 6840 section 5.7).
    pub fn ad(&self) -> bool {
        self.flags & flag::AD != 0
    }

    /// DNSSEC OK.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.as_ref().is_some_and(|edns| edns.dnssec_ok)
    }

    /// The question as it lies in the message; empty if it could not be read.
    pub fn question(&self) -> &[u8] {
        self.wire.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// Reads a query for the record, and as a message if it is one.
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

/// The queries that an upstream saw.
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

/// The OPT record's options as bytes; the message has been parsed, so what cannot be walked here is merely left out.
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

/// An extended DNS error (RFC 8914) for an upstream to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// Its info-code.
    pub code: u16,
    /// Its extra text; may be empty.
    pub text: String,
}

impl ExtendedError {
    /// Its option code.
    pub(super) const OPTION: u16 = option::EDE;

    /// The option's data.
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
    fn names_compare_without_regard_to_letter_case_and_last_dot() {
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
