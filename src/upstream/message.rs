//! Encoding of queries to upstreams, and matching of their responses. Pure bytes.

use super::question::Question;
use super::transport::Transport;
use crate::wire::name::MAX_NAME;
use crate::wire::response::ResponseMessage;
use crate::wire::write::{self, MessageWriter};
use crate::wire::{HEADER, Rcode, flag, option, rcode, u16_at};

/// Maximum size of a query to an upstream: header, name, type, class, OPT with its options, padding.
pub(crate) const LARGEST_QUERY: usize =
    (HEADER + 255 + 4 + write::OPT_SIZE + LARGEST_OPTIONS).next_multiple_of(PADDED_TO);
/// Block size to which queries inside TLS are padded, because their size must not reveal the name (RFC 8467 section 4.1).
pub(crate) const PADDED_TO: usize = 128;
/// Headers of two options, without padding.
const LARGEST_OPTIONS: usize = 8;
/// Option code of padding (RFC 7830).
const PADDING: u16 = 12;

/// Query as it was sent, which responses are matched against.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingQuery {
    bytes: Box<[u8]>,
    question_end: usize,
    case_random: bool,
}

/// Relation of a message to a query.
#[derive(Debug)]
pub(crate) enum MatchResult {
    /// Not the response to this query, or malformed: ignored on UDP, where the wait continues (RFC 5452).
    NotOurs,
    /// A message whose sender has proved to know the id only: from a server that folds letter case or sends errors
    /// without their question, or a forgery.
    Doubtful {
        /// Repeats the question in other letters.
        folded: bool,
        /// Says that the query was not understood.
        formerr: bool,
    },
    Reply(ResponseSummary),
}

/// Summary of a response for the choice of the next server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseSummary {
    pub rcode: Rcode,
    pub truncated: bool,
    /// First extended error: info-code and text.
    pub extended_error: Option<(u16, Vec<u8>)>,
    /// Reason why it is no answer, whatever its response code.
    pub fault: Option<ResponseFault>,
}

/// Fault of a response that repeats the question and yet is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFault {
    /// It cannot be parsed, has a record with RDATA that its type does not allow, or answers something else.
    Malformed,
    /// It refers to other servers, as a server does that does not recurse.
    Referral,
}

impl OutgoingQuery {
    /// Builds the query for `question`. `case` is the random letter case, one bit of each byte for a byte of the name;
    /// `None` leaves the name in lower case. `edns` adds nodens's own OPT: over TCP and TLS with the keepalive option
    /// (RFC 7828), over TLS padded (RFC 7830).
    pub(crate) fn new(
        question: &Question,
        id: u16,
        case: Option<&[u8; MAX_NAME]>,
        edns: bool,
        transport: Transport,
    ) -> Self {
        // AD requests the flag in the response (RFC 6840 section 5.7); which clients get it is decided later.
        let mut flags = flag::AD;
        for (set, bit) in [(question.rd, flag::RD), (question.cd, flag::CD), (question.z, flag::Z)] {
            flags |= if set { bit } else { 0 };
        }
        let mut bytes = [0; LARGEST_QUERY];
        let name = question.name.as_wire();
        let mut writer = MessageWriter::new(&mut bytes);
        writer.u16(id);
        writer.u16(flags);
        for count in [1, 0, 0, u16::from(edns)] {
            writer.u16(count);
        }
        writer.bytes(name);
        writer.u16(question.qtype.into());
        writer.u16(question.qclass);
        if edns {
            let before = HEADER + name.len() + 4 + write::OPT_SIZE;
            let mut options = [0; LARGEST_OPTIONS + PADDED_TO];
            let len = write_options(transport, before, &mut options);
            write::opt(&mut writer, rcode::NOERROR, question.dnssec_ok, &options[..len]);
        }
        let len = writer.finish().unwrap_or(0);
        if let Some(case) = case {
            for (byte, random) in bytes[HEADER..HEADER + name.len()].iter_mut().zip(case) {
                // Length bytes are below 64, so they are no letters. Branch-free for vectorization.
                let letter = u8::from(byte.is_ascii_lowercase());
                *byte ^= (letter << 5) & random;
            }
        }
        Self { bytes: bytes[..len].into(), question_end: HEADER + name.len() + 4, case_random: case.is_some() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn id(&self) -> u16 {
        u16_at(&self.bytes, 0).unwrap_or_default()
    }

    /// Returns the question in wire form.
    pub(crate) fn question(&self) -> &[u8] {
        self.bytes.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// Reports whether a message responds to another question, such as a late response to an earlier query with the same
    /// id.
    pub(crate) fn is_of_another(&self, message: &[u8]) -> bool {
        let rest = message.get(HEADER..).unwrap_or_default();
        let echoed = crate::wire::name::plain_len(rest).and_then(|name| rest.get(..name + 4));
        u16_at(message, 4) == Some(1) && echoed.is_some_and(|echoed| !self.question().eq_ignore_ascii_case(echoed))
    }

    /// Replaces the id, if the one that was drawn is in use.
    pub(crate) fn set_id(&mut self, id: u16) {
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = id.to_be_bytes();
        }
    }

    /// Matches `message`, whose id is that of the query, against the query.
    pub(crate) fn match_response(&self, message: &[u8]) -> MatchResult {
        let (Some(flags), Some(questions)) = (u16_at(message, 2), u16_at(message, 4)) else {
            return MatchResult::NotOurs;
        };
        if flags & flag::QR == 0 || flags & flag::OPCODE != 0 || message.get(..2) != self.bytes.get(..2) {
            return MatchResult::NotOurs;
        }
        let code = Rcode::of_flags(flags);
        let truncated = flags & flag::TC != 0;
        // Some servers send errors, or truncated responses, without a question; id, address and port have matched.
        let is_answer = matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
        if questions == 0 && message.len() == HEADER && (truncated || !is_answer) {
            let formerr = matches!(code, rcode::FORMERR | rcode::NOTIMP);
            return match self.case_random {
                true => MatchResult::Doubtful { folded: false, formerr },
                false => {
                    MatchResult::Reply(ResponseSummary { rcode: code, truncated, extended_error: None, fault: None })
                }
            };
        }
        let (Some(asked), Some(echoed)) =
            (self.bytes.get(HEADER..self.question_end), message.get(HEADER..self.question_end))
        else {
            return MatchResult::NotOurs;
        };
        // Type and class are compared exactly: bytes there that look like letters are none.
        let tail = self.question_end - HEADER - 4;
        if questions != 1 || !asked.eq_ignore_ascii_case(echoed) || asked[tail..] != echoed[tail..] {
            return MatchResult::NotOurs;
        }
        if self.case_random && asked != echoed {
            return MatchResult::Doubtful { folded: true, formerr: false };
        }
        let verdict = ResponseSummary { rcode: code, truncated, extended_error: None, fault: None };
        MatchResult::Reply(match ResponseMessage::read(message) {
            Ok(response) => {
                let fault = match response.is_sound() {
                    false => Some(ResponseFault::Malformed),
                    true if response.answers_something_else() => Some(ResponseFault::Malformed),
                    true if self.wants_recursion() && response.is_referral() => Some(ResponseFault::Referral),
                    true => None,
                };
                let extended_error = first_extended_error(&response.extended_errors);
                ResponseSummary { rcode: response.rcode, extended_error, fault, ..verdict }
            }
            // A truncated message may end anywhere; it only causes an attempt over TCP.
            Err(_) if truncated => verdict,
            Err(_) => ResponseSummary { fault: Some(ResponseFault::Malformed), ..verdict },
        })
    }

    fn wants_recursion(&self) -> bool {
        u16_at(&self.bytes, 2).is_some_and(|flags| flags & flag::RD != 0)
    }
}

/// Writes the options of a query into zeroed `options`; `before` is its size up to there. Returns their length.
fn write_options(transport: Transport, before: usize, options: &mut [u8]) -> usize {
    let mut writer = MessageWriter::new(options);
    if transport.is_datagram() {
        return 0;
    }
    writer.u16(option::KEEPALIVE);
    writer.u16(0);
    if !transport.is_encrypted() {
        return 4;
    }
    let bare = before + LARGEST_OPTIONS;
    let padding = bare.next_multiple_of(PADDED_TO) - bare;
    writer.u16(PADDING);
    writer.u16(padding as u16);
    LARGEST_OPTIONS + padding
}

/// Returns the time for which the server keeps an idle connection, in tenths of a second, if the response contains it
/// (RFC 7828).
pub(crate) fn keepalive(message: &[u8]) -> Option<u16> {
    let (start, end) = ResponseMessage::read(message).ok()?.opt?;
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
    fn names_are_padded_inside_tls_only() {
        for label in 1..=63_u8 {
            for labels in 1..=3 {
                let mut name = [&[label][..], &vec![b'a'; label.into()]].concat().repeat(labels);
                name.push(0);
                let name = Name::from_wire(&name).expect("a name");
                let length = name.as_wire().len();
                let (qtype, qclass) = (rtype::A, 1);
                let question = Question { name, qtype, qclass, rd: true, cd: false, dnssec_ok: false, z: false };
                let size = |edns, transport| OutgoingQuery::new(&question, 7, None, edns, transport).bytes().len();
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
        let sent = OutgoingQuery::new(&question, 7, None, true, Transport::Tls);
        assert_eq!(sent.bytes().len(), LARGEST_QUERY);
    }
}
