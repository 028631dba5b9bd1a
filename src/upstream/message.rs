//! The query that goes to an upstream, and the judgement of what comes back. Pure bytes.

use super::question::Question;
use super::transport::Transport;
use crate::wire::make::{self, Writer};
use crate::wire::name::MAX_NAME;
use crate::wire::reply::Reply;
use crate::wire::{HEADER, Rcode, flag, option, rcode, u16_at};

/// The most bytes of a query to an upstream: header, name, type, class, OPT with its options, padding.
pub const LARGEST_QUERY: usize = (HEADER + 255 + 4 + make::OPT_SIZE + LARGEST_OPTIONS).next_multiple_of(PADDED_TO);
/// Inside TLS a query is padded to a multiple of this, so that its size does not tell the name (RFC 8467 section 4.1).
pub const PADDED_TO: usize = 128;
/// The heads of two options, without padding.
const LARGEST_OPTIONS: usize = 8;
/// The option code of padding (RFC 7830).
const PADDING: u16 = 12;

/// A query as it was sent; a reply is held against it.
#[derive(Clone, Debug)]
pub struct Sent {
    bytes: Box<[u8]>,
    question_end: usize,
    case_random: bool,
}

/// What a message from an upstream is.
#[derive(Debug)]
pub enum MatchResult {
    /// Not the reply to this query, or mangled: on UDP to be ignored while the wait goes on (RFC 5452).
    NotOurs,
    /// Whoever sent this knows no more than the id: it may be the reply of a server that folds letter case, or that sends errors
    /// without their question, or the work of someone who guesses.
    Doubtful {
        /// Whether it bears the question in other letters.
        folded: bool,
        /// Whether it says that the query was not understood.
        formerr: bool,
    },
    /// The reply.
    Reply(Verdict),
}

/// What the reply says, as far as the choice of the next server goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The full response code.
    pub rcode: Rcode,
    /// Whether it is truncated.
    pub truncated: bool,
    /// Its first extended error: info-code and text.
    pub extended_error: Option<(u16, Vec<u8>)>,
    /// Why it is no answer, whatever its response code says.
    pub fault: Option<Fault>,
}

/// What a reply may be that has the right question and is no answer all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read, or a record of it is not as its type wants it.
    Malformed,
    /// It names other servers to ask, as a server does that does not recurse.
    Referral,
}

impl Sent {
    /// The query for `question`. `case` gives the random letter case, one bit of each byte for a byte of the name; none
    /// leaves it lower. `edns` adds nodens's own OPT: on a connection with the keepalive option (RFC 7828), in TLS padded (RFC 7830).
    pub fn new(question: &Question, id: u16, case: Option<&[u8; MAX_NAME]>, edns: bool, transport: Transport) -> Self {
        // AD says that the flag is understood in the reply (RFC 6840 section 5.7); who sees it is decided later.
        let mut flags = flag::AD;
        for (set, bit) in [(question.rd, flag::RD), (question.cd, flag::CD), (question.z, flag::Z)] {
            flags |= if set { bit } else { 0 };
        }
        let mut bytes = [0; LARGEST_QUERY];
        let name = question.name.as_wire();
        let mut writer = Writer::new(&mut bytes);
        writer.u16(id);
        writer.u16(flags);
        for count in [1, 0, 0, u16::from(edns)] {
            writer.u16(count);
        }
        writer.bytes(name);
        writer.u16(question.qtype.into());
        writer.u16(question.qclass);
        if edns {
            let before = HEADER + name.len() + 4 + make::OPT_SIZE;
            let mut options = [0; LARGEST_OPTIONS + PADDED_TO];
            let len = write_options(transport, before, &mut options);
            make::opt(&mut writer, rcode::NOERROR, question.dnssec_ok, &options[..len]);
        }
        let len = writer.finish().unwrap_or(0);
        if let Some(case) = case {
            for (byte, random) in bytes[HEADER..HEADER + name.len()].iter_mut().zip(case) {
                // Length bytes are below 64, so they are no letters. Written so that many bytes are done at once.
                let letter = u8::from(byte.is_ascii_lowercase());
                *byte ^= (letter << 5) & random;
            }
        }
        Self { bytes: bytes[..len].into(), question_end: HEADER + name.len() + 4, case_random: case.is_some() }
    }

    /// The message.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its id.
    pub fn id(&self) -> u16 {
        u16_at(&self.bytes, 0).unwrap_or_default()
    }

    /// Its question.
    pub fn question(&self) -> &[u8] {
        self.bytes.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// Whether a message is the reply to another question, such as a late one to an earlier query with the same id.
    pub fn is_of_another(&self, message: &[u8]) -> bool {
        let rest = message.get(HEADER..).unwrap_or_default();
        let echoed = crate::wire::name::plain_len(rest).and_then(|name| rest.get(..name + 4));
        u16_at(message, 4) == Some(1) && echoed.is_some_and(|echoed| !self.question().eq_ignore_ascii_case(echoed))
    }

    /// Gives it another id, where the one that was drawn is in use.
    pub fn set_id(&mut self, id: u16) {
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = id.to_be_bytes();
        }
    }

    /// Holds `message`, whose id has been matched, against the query.
    pub fn judge(&self, message: &[u8]) -> MatchResult {
        let (Some(flags), Some(questions)) = (u16_at(message, 2), u16_at(message, 4)) else {
            return MatchResult::NotOurs;
        };
        if flags & flag::QR == 0 || flags & flag::OPCODE != 0 || message.get(..2) != self.bytes.get(..2) {
            return MatchResult::NotOurs;
        }
        let code = Rcode::of_flags(flags);
        let truncated = flags & flag::TC != 0;
        // Some servers send errors without a question, or that only TCP has room; id, address and port have matched.
        let is_answer = matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
        if questions == 0 && message.len() == HEADER && (truncated || !is_answer) {
            let formerr = matches!(code, rcode::FORMERR | rcode::NOTIMP);
            return match self.case_random {
                true => MatchResult::Doubtful { folded: false, formerr },
                false => MatchResult::Reply(Verdict { rcode: code, truncated, extended_error: None, fault: None }),
            };
        }
        let (Some(asked), Some(echoed)) =
            (self.bytes.get(HEADER..self.question_end), message.get(HEADER..self.question_end))
        else {
            return MatchResult::NotOurs;
        };
        // Letters' bytes in type and class are no letters.
        let tail = self.question_end - HEADER - 4;
        if questions != 1 || !asked.eq_ignore_ascii_case(echoed) || asked[tail..] != echoed[tail..] {
            return MatchResult::NotOurs;
        }
        if self.case_random && asked != echoed {
            return MatchResult::Doubtful { folded: true, formerr: false };
        }
        let verdict = Verdict { rcode: code, truncated, extended_error: None, fault: None };
        MatchResult::Reply(match Reply::read(message) {
            Ok(reply) => {
                let fault = match reply.is_sound() {
                    false => Some(Fault::Malformed),
                    true if reply.answers_something_else() => Some(Fault::Malformed),
                    true if self.wants_recursion() && reply.is_referral() => Some(Fault::Referral),
                    true => None,
                };
                let extended_error = first_extended_error(&reply.extended_errors);
                Verdict { rcode: reply.rcode, extended_error, fault, ..verdict }
            }
            // A truncated message may end anywhere; it only sends us to TCP.
            Err(_) if truncated => verdict,
            Err(_) => Verdict { fault: Some(Fault::Malformed), ..verdict },
        })
    }

    fn wants_recursion(&self) -> bool {
        u16_at(&self.bytes, 2).is_some_and(|flags| flags & flag::RD != 0)
    }
}

/// The options of a query whose bytes before them are `before`, into zeroed `options`; returns their length.
fn write_options(transport: Transport, before: usize, options: &mut [u8]) -> usize {
    let mut writer = Writer::new(options);
    if transport == Transport::Udp {
        return 0;
    }
    writer.u16(option::KEEPALIVE);
    writer.u16(0);
    if transport == Transport::Tcp {
        return 4;
    }
    let bare = before + LARGEST_OPTIONS;
    let padding = bare.next_multiple_of(PADDED_TO) - bare;
    writer.u16(PADDING);
    writer.u16(padding as u16);
    LARGEST_OPTIONS + padding
}

/// How long the server keeps an idle connection, in tenths of a second, if the reply says so (RFC 7828).
pub fn keepalive(message: &[u8]) -> Option<u16> {
    let (start, end) = Reply::read(message).ok()?.opt?;
    let mut options = message.get(start + 11..end)?;
    loop {
        let length = usize::from(u16_at(options, 2)?);
        if u16_at(options, 0) == Some(option::KEEPALIVE) && length == 2 {
            return u16_at(options, 4);
        }
        options = options.get(4 + length..)?;
    }
}

fn first_extended_error(options: &[u8]) -> Option<(u16, Vec<u8>)> {
    let length = usize::from(u16_at(options, 2)?);
    Some((u16_at(options, 4)?, options.get(6..4 + length)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;
    use crate::wire::rtype;

    #[test]
    fn every_name_is_padded_to_a_multiple_inside_tls_and_nowhere_else() {
        for label in 1..=63_u8 {
            for labels in 1..=3 {
                let mut name = [&[label][..], &vec![b'a'; label.into()]].concat().repeat(labels);
                name.push(0);
                let name = Name::from_wire(&name).expect("a name");
                let length = name.as_wire().len();
                let (qtype, qclass) = (rtype::A, 1);
                let question = Question { name, qtype, qclass, rd: true, cd: false, dnssec_ok: false, z: false };
                let size = |edns, transport| Sent::new(&question, 7, None, edns, transport).bytes().len();
                assert_eq!(size(true, Transport::Udp), HEADER + length + 4 + 11);
                assert_eq!(size(true, Transport::Tcp), HEADER + length + 4 + 11 + 4);
                assert_eq!(size(true, Transport::Tls), (HEADER + length + 4 + 11 + 8).next_multiple_of(PADDED_TO));
                assert_eq!(size(false, Transport::Tls), HEADER + length + 4);
            }
        }
    }

    #[test]
    fn the_longest_name_fits() {
        let mut name = [&[63][..], &[b'a'; 63]].concat().repeat(3);
        name.extend([&[61][..], &[b'a'; 61], &[0]].concat());
        let name = Name::from_wire(&name).expect("a name of 255 bytes");
        let question = Question { name, qtype: rtype::A, qclass: 1, rd: true, cd: false, dnssec_ok: true, z: false };
        let sent = Sent::new(&question, 7, None, true, Transport::Tls);
        assert_eq!(sent.bytes().len(), LARGEST_QUERY);
    }
}
