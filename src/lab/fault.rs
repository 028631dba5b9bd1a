//! Misbehaviour of a scripted server: a pure function from a query and its honest response to the messages to send.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::seen::{ExtendedError, Seen};
use crate::upstream::Transport;
use crate::wire::{ADVERTISED_SIZE, HEADER, Rcode, flag, rcode, rtype};

/// Behaviour of a server towards the queries that reach it. [`Behaviour::normal`] answers from the zone after the server's
/// own latency. The other constructors change the response; the builders change its conditions, delay and transport.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub(super) tcp: Tcp,
    pub(super) ignores_opt: bool,
    response: ScriptedResponse,
    then_honest: bool,
    without_question: bool,
    without_opt: bool,
    extended_error: Option<ExtendedError>,
    only_over: Option<Transport>,
    only_with_opt: bool,
    latency: Option<Duration>,
    times: u32,
    loss: Loss,
}

/// Treatment of TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tcp {
    /// Connections are served; each of several pipelined queries is answered as soon as possible.
    #[default]
    Serve,
    /// The port is closed and open connections are ended; UDP is unaffected.
    Refuse,
    /// Connections are accepted and read, and no response is written.
    Silent,
    /// A connection is closed after this many responses; 0 closes it as soon as it is accepted.
    CloseAfter(usize),
    /// A connection gets this many responses; later queries are read and not answered.
    StallAfter(usize),
    /// Responses are collected until there are this many, or until nothing arrives for 200 ms, and sent in reverse order.
    Reversed(usize),
    /// Responses arrive in pieces of this many bytes, each in a segment of its own.
    InPieces(usize),
}

/// A deliberately wrong response, which a client must not accept as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// The honest response with another id.
    WrongId,
    /// The honest response with another name in the question, or another type if the name is the root.
    WrongQuestion,
    /// The honest response from another port. A connection has no other port: nothing is sent.
    OtherPort,
    /// The unchanged query, without the QR flag.
    Echo,
}

/// Edit of the honest response's bytes; if none are left, nothing is sent.
type Edit = dyn Fn(&Seen, &mut Vec<u8>) + Send + Sync;

#[derive(Clone)]
enum ScriptedResponse {
    Honest,
    Silence,
    Rcode(Rcode),
    Truncated,
    Bytes(Vec<u8>),
    Forged(Forgery),
    FoldedCase,
    Edited(Arc<Edit>),
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    None,
    EveryNth(u64),
    Percent { percent: u64, seed: u64 },
}

/// A message to send to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) after: Duration,
    pub(super) from_other_port: bool,
    pub(super) wire: Vec<u8>,
}

impl Behaviour {
    /// Answers from the zone.
    pub fn normal() -> Self {
        Self::of(ScriptedResponse::Honest)
    }

    /// Receives queries and never answers, over UDP and TCP.
    pub fn silent() -> Self {
        Self::of(ScriptedResponse::Silence)
    }

    /// Answers every query with `rcode` and no records.
    pub fn rcode(rcode: impl Into<Rcode>) -> Self {
        Self::of(ScriptedResponse::Rcode(rcode.into()))
    }

    /// Does not support EDNS: answers queries that have an OPT record with FORMERR, without an OPT record (RFC 6891 section 7).
    pub fn formerr_on_opt() -> Self {
        Self::rcode(rcode::FORMERR).without_opt().only_with_opt()
    }

    /// Drops queries that have an OPT record, as some middleboxes do.
    pub fn silent_on_opt() -> Self {
        Self::silent().only_with_opt()
    }

    /// Truncates every response over UDP to its question, with TC = 1; responses over TCP are complete.
    pub fn truncated() -> Self {
        Self::of(ScriptedResponse::Truncated).only_over(Transport::Udp)
    }

    /// Answers every query with the same bytes, valid or not.
    pub fn bytes(wire: impl Into<Vec<u8>>) -> Self {
        Self::of(ScriptedResponse::Bytes(wire.into()))
    }

    /// Sends a response that must not be accepted as an answer; [`Behaviour::then_honest`] sends the honest one after it.
    pub fn forged(forgery: Forgery) -> Self {
        Self::of(ScriptedResponse::Forged(forgery))
    }

    /// Answers with the question's name in lower case, whatever its letter case in the query.
    pub fn folded_case() -> Self {
        Self::of(ScriptedResponse::FoldedCase)
    }

    /// Sends the honest response as edited by `edit`; if `edit` leaves no bytes, sends nothing.
    pub fn edited(edit: impl Fn(&Seen, &mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::of(ScriptedResponse::Edited(Arc::new(edit)))
    }

    /// Sets the treatment of TCP connections.
    pub fn tcp(mut self, tcp: Tcp) -> Self {
        self.tcp = tcp;
        self
    }

    /// Sends the honest response right after the one that this behaviour generates.
    pub fn then_honest(mut self) -> Self {
        self.then_honest = true;
        self
    }

    /// Omits the question from responses that [`Behaviour::rcode`] and [`Behaviour::truncated`] generate.
    pub fn without_question(mut self) -> Self {
        self.without_question = true;
        self
    }

    /// Omits the OPT record from responses that [`Behaviour::rcode`] and [`Behaviour::truncated`] generate.
    pub fn without_opt(mut self) -> Self {
        self.without_opt = true;
        self
    }

    /// Answers as if queries had no OPT record: with none in the response, in 512 bytes at most, without DNSSEC records.
    pub fn ignoring_opt(mut self) -> Self {
        self.ignores_opt = true;
        self
    }

    /// Adds an extended error (RFC 8914) to responses that [`Behaviour::rcode`] and [`Behaviour::truncated`] generate, for
    /// clients with EDNS.
    pub fn extended_error(mut self, code: u16, text: &str) -> Self {
        self.extended_error = Some(ExtendedError { code, text: text.to_owned() });
        self
    }

    /// Misbehaves over this transport only; answers from the zone over the other.
    pub fn only_over(mut self, transport: Transport) -> Self {
        self.only_over = Some(transport);
        self
    }

    /// Misbehaves only if the query has an OPT record; answers from the zone otherwise.
    pub fn only_with_opt(mut self) -> Self {
        self.only_with_opt = true;
        self
    }

    /// Responds after `latency` instead of the server's own.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// Multiplies the latency by `times`.
    pub fn slower(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Drops the responses to every `n`th UDP query since the behaviour was set: the `n`th, the `2n`th ...
    pub fn lose_every(mut self, n: u64) -> Self {
        self.loss = Loss::EveryNth(n);
        self
    }

    /// Drops the responses to about `percent` of the UDP queries; a `seed` always selects the same queries.
    pub fn lose_percent(mut self, percent: u64, seed: u64) -> Self {
        self.loss = Loss::Percent { percent, seed };
        self
    }

    fn of(response: ScriptedResponse) -> Self {
        Self {
            tcp: Tcp::Serve,
            ignores_opt: false,
            response,
            then_honest: false,
            without_question: false,
            without_opt: false,
            extended_error: None,
            only_over: None,
            only_with_opt: false,
            latency: None,
            times: 1,
            loss: Loss::None,
        }
    }

    /// Returns the messages to send for the `number`th UDP query (from 1; 0 over TCP). `honest` is the zone's response, if any.
    pub(super) fn sends(&self, seen: &Seen, honest: Option<Vec<u8>>, number: u64, own: Duration) -> Vec<Outgoing> {
        if number > 0 && self.loss.hits(number) {
            return Vec::new();
        }
        let after = self.latency.unwrap_or(own) * self.times;
        let fair = self.only_over.is_some_and(|only| only != seen.transport)
            || (self.only_with_opt && seen.edns.is_none())
            || matches!(self.response, ScriptedResponse::Honest);
        let mut wires = Vec::new();
        if !fair {
            wires.extend(self.made_up(seen, honest.as_deref()));
        }
        if fair || self.then_honest {
            wires.extend(honest.map(|wire| (false, wire)));
        }
        wires
            .into_iter()
            .filter(|(other_port, wire)| !wire.is_empty() && (!other_port || seen.transport == Transport::Udp))
            .map(|(from_other_port, wire)| Outgoing { after, from_other_port, wire })
            .collect()
    }

    /// Returns the response that this behaviour generates, and whether it comes from another port.
    fn made_up(&self, seen: &Seen, honest: Option<&[u8]>) -> Option<(bool, Vec<u8>)> {
        let mut other_port = false;
        let mut wire = match &self.response {
            ScriptedResponse::Silence => return None,
            ScriptedResponse::Rcode(rcode) => return Some((false, self.bare(seen, *rcode, 0))),
            ScriptedResponse::Truncated => return Some((false, self.bare(seen, rcode::NOERROR, flag::TC))),
            ScriptedResponse::Bytes(wire) => return Some((false, wire.clone())),
            ScriptedResponse::Honest
            | ScriptedResponse::Forged(_)
            | ScriptedResponse::FoldedCase
            | ScriptedResponse::Edited(_) => honest?.to_vec(),
        };
        match &self.response {
            ScriptedResponse::Forged(Forgery::WrongId) => wire[1] ^= 1,
            ScriptedResponse::Forged(Forgery::WrongQuestion) => another_question(&mut wire, seen),
            ScriptedResponse::Forged(Forgery::OtherPort) => other_port = true,
            ScriptedResponse::Forged(Forgery::Echo) => wire = seen.wire.clone(),
            ScriptedResponse::FoldedCase => wire[HEADER..seen.question_end].make_ascii_lowercase(),
            ScriptedResponse::Edited(edit) => edit(seen, &mut wire),
            _ => {}
        }
        Some((other_port, wire))
    }

    /// Returns a response without records.
    fn bare(&self, seen: &Seen, rcode: Rcode, flags: u16) -> Vec<u8> {
        let extended_error = self.extended_error.as_ref().filter(|_| !self.without_opt);
        let question = if self.without_question { &[][..] } else { seen.question() };
        bare(seen, rcode, flags, question, !self.without_opt && !self.ignores_opt, extended_error)
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::normal()
    }
}

impl Loss {
    fn hits(self, number: u64) -> bool {
        match self {
            Self::None => false,
            Self::EveryNth(n) => n > 0 && number.is_multiple_of(n),
            Self::Percent { percent, seed } => scramble(seed.wrapping_add(number)) % 100 < percent,
        }
    }
}

impl fmt::Debug for ScriptedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Honest => f.write_str("Honest"),
            Self::Silence => f.write_str("Silence"),
            Self::Rcode(rcode) => write!(f, "Rcode({rcode})"),
            Self::Truncated => f.write_str("Truncated"),
            Self::Bytes(wire) => write!(f, "Bytes({})", wire.len()),
            Self::Forged(forgery) => write!(f, "Forged({forgery:?})"),
            Self::FoldedCase => f.write_str("FoldedCase"),
            Self::Edited(_) => f.write_str("Edited(..)"),
        }
    }
}

/// Returns a response without records; it has an OPT record if `opt` is set and the query has one.
pub(super) fn bare(
    seen: &Seen,
    rcode: Rcode,
    flags: u16,
    question: &[u8],
    opt: bool,
    error: Option<&ExtendedError>,
) -> Vec<u8> {
    let edns = seen.edns.as_ref().filter(|_| opt);
    let kept = seen.flags & (flag::OPCODE | flag::RD | flag::CD);
    let mut wire = seen.id.to_be_bytes().to_vec();
    wire.extend((flag::QR | flag::RA | kept | flags | rcode.header_bits()).to_be_bytes());
    wire.extend([0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    wire.extend(question);
    if let Some(edns) = edns {
        let data = error.map(|error| (ExtendedError::OPTION, error.data()));
        wire.push(0);
        wire.extend(rtype::OPT.to_be_bytes());
        wire.extend(ADVERTISED_SIZE.to_be_bytes());
        wire.extend([rcode.opt_bits(), 0, u8::from(edns.dnssec_ok) << 7, 0]);
        wire.extend((data.as_ref().map_or(0, |(_, data)| data.len() + 4) as u16).to_be_bytes());
        if let Some((code, data)) = data {
            wire.extend(code.to_be_bytes());
            wire.extend((data.len() as u16).to_be_bytes());
            wire.extend(data);
        }
    }
    wire
}

/// Changes the first letter of the name, which the compressed owners of the records refer to; changes the type of the root.
fn another_question(wire: &mut [u8], seen: &Seen) {
    let at = if seen.question().len() > 5 { HEADER + 1 } else { seen.question_end - 3 };
    wire[at] = if wire[at].eq_ignore_ascii_case(&b'z') { b'y' } else { b'z' };
}

/// Returns the finalizer of splitmix64, which maps neighbouring numbers to unrelated ones.
fn scramble(number: u64) -> u64 {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
