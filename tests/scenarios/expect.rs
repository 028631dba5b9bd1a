//! Checks of a response against the lines that describe the expected one.
//!
//! ```text
//!   NOERROR ad                        the code, and which of AA, TC, Z and AD are set; QR and RA are, RD and CD are as sent
//!   www.example.com. 300 A 192.0.2.1  an answer; there are no others, unless `answers 3..9` counts them
//!   soa example.com. 30               the authority section is this SOA record with this TTL
//!   lower                             no byte after the question's name is a capital letter
//!   spelled ns.Example.com.           this name is present uncompressed, in this letter case
//!   ede 3 upstreams failed            an extended error with a part of its text; there are no others
//!   keepalive 100                     the edns-tcp-keepalive option
//!   nsid node-7                       the NSID option
//!   size 300..512                     the length of the message
//!   took 0..5                         milliseconds until the response
//!   bare                              no question
//!   bytes 1234ff                      the whole message
//! ```
//!
//! Always checked: id and question are those of the query, byte for byte. A client that sent an OPT record gets one, which
//! offers 1232 bytes and has the DO bit of the query; other clients get none.

use std::ops::RangeInclusive;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::txt::Parser;
use nodens::wire::response::ResponseMessage;

use super::client::rtype;
use super::script::{hex, range};

/// Expected response.
#[derive(Default)]
struct Expected {
    rcode: Option<String>,
    flags: Vec<String>,
    answers: Vec<String>,
    count: Option<String>,
    soa: Option<(String, u32)>,
    errors: Vec<(u16, String)>,
    keepalive: Option<u16>,
    nsid: Option<String>,
    size: Option<String>,
    took: Option<String>,
    bare: bool,
    lower: bool,
    spelled: Vec<String>,
    bytes: Option<Vec<u8>>,
}

/// Server whose response is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judge {
    /// nodens, byte for byte, on a paused clock.
    Nodens,
    /// A peer on the machine's clock. Checked are code, answers, QR, TC and, within [`SLACK`], times; not checked are other
    /// flags, OPT, extended errors and the order of addresses.
    Peer,
}

/// Tolerance of times on the machine's clock, in milliseconds.
const SLACK: u64 = 250;

/// Tolerance of TTLs on the machine's clock, in seconds.
const AGED: u32 = 3;

impl Judge {
    /// Returns the bounds of a time in milliseconds, both ends included.
    pub(crate) fn times(self, bounds: &str) -> RangeInclusive<u64> {
        let bounds = range(bounds);
        match self {
            Self::Nodens => bounds,
            Self::Peer => bounds.start().saturating_sub(SLACK)..=bounds.end() + SLACK,
        }
    }

    fn is_ttl(self, ttl: u32, wanted: u32) -> bool {
        ttl == wanted || (self == Self::Peer && ttl < wanted && ttl + AGED >= wanted)
    }
}

/// Panics if the response does not match the lines.
pub(crate) fn check(query: &[u8], response: &[u8], took: Duration, block: &[String], judge: Judge) {
    let expected = read(block);
    if let Some(bytes) = &expected.bytes {
        assert_eq!(response, bytes, "{response:02x?}");
        return;
    }
    let message =
        Message::from_vec(response).unwrap_or_else(|error| panic!("unreadable reply: {error}: {response:02x?}"));
    let told = tell(&message);
    let rcode = message.metadata.response_code.to_str().to_uppercase().replace(' ', "");
    let wanted = expected.rcode.expect("a response code");
    assert!(rcode == wanted || long_name(&wanted) == rcode, "{rcode}, expected {wanted}: {told}");

    assert_eq!(response[..2], query[..2], "another id");
    let flags = |wire: &[u8]| u16::from_be_bytes([wire[2], wire[3]]);
    let mut wanted = 0x8080 | (flags(query) & 0x7910);
    for (word, bit) in [("aa", 0x0400), ("tc", 0x0200), ("z", 0x0040), ("ad", 0x0020)] {
        wanted |= if expected.flags.iter().any(|flag| flag == word) { bit } else { 0 };
    }
    let told_by_flags = if judge == Judge::Peer { 0x8200 } else { 0xfff0 };
    assert_eq!(
        flags(response) & told_by_flags,
        wanted & told_by_flags,
        "flags {:04x}, expected {wanted:04x}: {told}",
        flags(response)
    );

    if expected.bare {
        assert!(message.queries.is_empty(), "a question: {told}");
    } else {
        let end = nodens::wire::name::skip(query, 12).expect("a name") + 4;
        assert_eq!(response.get(12..end), query.get(12..end), "another question: {told}");
    }
    if expected.lower {
        let end = nodens::wire::name::skip(response, 12).expect("a name");
        assert!(!response[end..].iter().any(u8::is_ascii_uppercase), "capital letters: {told}: {response:02x?}");
    }
    for name in &expected.spelled {
        let labels = name.split('.').map(|label| [&[label.len() as u8], label.as_bytes()].concat());
        let wire = labels.collect::<Vec<_>>().concat();
        assert!(
            response.windows(wire.len()).any(|window| window == wire),
            "{name} is not there: {told}: {response:02x?}"
        );
    }
    if judge == Judge::Nodens {
        check_opt(query, response, &message, &expected.errors, (expected.keepalive, expected.nsid.as_deref()), &told);
    }

    match &expected.count {
        Some(count) => assert!(range(count).contains(&(message.answers.len() as u64)), "answers: {told}"),
        None => {
            assert_eq!(message.answers.len(), expected.answers.len(), "answers: {told}");
            for (answer, line) in message.answers.iter().zip(&expected.answers) {
                let like_it =
                    |other: &&Record| other.name == answer.name && other.record_type() == answer.record_type();
                let is_there = match judge {
                    Judge::Nodens => is(answer, line, judge),
                    Judge::Peer => message.answers.iter().filter(like_it).any(|answer| is(answer, line, judge)),
                };
                assert!(is_there, "expected {line}: {told}");
            }
        }
    }
    if let Some((owner, ttl)) = expected.soa {
        let owner = Name::from_ascii(&owner).expect("a name");
        let is = |soa: &Record| soa.record_type() == RecordType::SOA && soa.name == owner && judge.is_ttl(soa.ttl, ttl);
        assert!(message.authorities.len() == 1 && message.authorities.iter().all(is), "no such SOA: {told}");
    }
    if let Some(size) = &expected.size {
        assert!(range(size).contains(&(response.len() as u64)), "{} bytes: {told}", response.len());
    }
    if let Some(bounds) = &expected.took {
        assert!(judge.times(bounds).contains(&(took.as_millis() as u64)), "took {took:?}: {told}");
    }
}

fn read(block: &[String]) -> Expected {
    let mut expected = Expected::default();
    for line in block {
        let words: Vec<&str> = line.split_whitespace().collect();
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("{line}: {text} is no number"));
        match words.as_slice() {
            ["answers", count] => expected.count = Some((*count).to_owned()),
            ["soa", owner, ttl] => expected.soa = Some(((*owner).to_owned(), number(ttl))),
            ["ede", code, text @ ..] => expected.errors.push((number(code) as u16, text.join(" "))),
            ["keepalive", tenths] => expected.keepalive = Some(number(tenths) as u16),
            ["nsid", name] => expected.nsid = Some((*name).to_owned()),
            ["size", bounds] => expected.size = Some((*bounds).to_owned()),
            ["took", bounds] => expected.took = Some((*bounds).to_owned()),
            ["bare"] => expected.bare = true,
            ["lower"] => expected.lower = true,
            ["spelled", name] => expected.spelled.push((*name).to_owned()),
            ["bytes", text] => expected.bytes = Some(hex(text)),
            [code, flags @ ..] if expected.rcode.is_none() && code.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                expected.rcode = Some((*code).to_owned());
                expected.flags = owned(flags);
            }
            _ => expected.answers.push(line.clone()),
        }
    }
    expected
}

fn check_opt(
    query: &[u8],
    response: &[u8],
    message: &Message,
    errors: &[(u16, String)],
    (keepalive, nsid): (Option<u16>, Option<&str>),
    told: &str,
) {
    let asked = Message::from_vec(query).ok().map(|query| query.edns.map(|edns| edns.flags().dnssec_ok));
    let Some(asked) = asked else { return };
    assert_eq!(message.edns.is_some(), asked.is_some(), "OPT: {told}");
    let Some(edns) = &message.edns else {
        assert!(errors.is_empty() && keepalive.is_none() && nsid.is_none(), "no OPT, so no options");
        return;
    };
    assert_eq!((edns.max_payload(), edns.version()), (1232, 0), "{told}");
    let refused = u16::from(message.metadata.response_code) == u16::from(nodens::wire::rcode::BADVERS);
    assert!(refused || Some(edns.flags().dnssec_ok) == asked, "DO: {told}");
    let options = options(response);
    let found: Vec<_> = options.iter().filter(|(code, _)| *code == 15).map(|(_, data)| data).collect();
    assert_eq!(found.len(), errors.len(), "extended errors: {told}");
    for (data, (code, text)) in found.into_iter().zip(errors) {
        let said = String::from_utf8_lossy(&data[2..]);
        assert_eq!(u16::from_be_bytes([data[0], data[1]]), *code, "{said}: {told}");
        assert!(said.contains(text.as_str()), "extended error says {said:?}, not {text:?}");
    }
    let said = options.iter().find(|(code, _)| *code == 11).map(|(_, data)| u16::from_be_bytes([data[0], data[1]]));
    assert_eq!(said, keepalive, "keepalive: {told}");
    let named = options.iter().find(|(code, _)| *code == 3).map(|(_, data)| String::from_utf8_lossy(data));
    assert_eq!(named.as_deref(), nsid, "NSID: {told}");
    let known = [3, 11, 15];
    assert!(options.iter().all(|(code, _)| known.contains(code)), "other options: {options:?}");
}

/// Returns the options of a message's OPT record in their order.
fn options(response: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let Some((start, end)) = ResponseMessage::read(response).expect("a whole reply").opt else { return Vec::new() };
    let (mut rest, mut found) = (&response[start + 11..end], Vec::new());
    while let (Some(code), Some(length)) = (word(rest, 0), word(rest, 2)) {
        let end = 4 + usize::from(length);
        found.push((code, rest[4..end].to_vec()));
        rest = &rest[end..];
    }
    found
}

/// Returns whether a record is that of a zone file's line, TTL included. `...` matches any RDATA, for signatures.
fn is(record: &Record, line: &str, judge: Judge) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [owner, ttl, kind, rest @ ..] = words.as_slice() else { panic!("{line}: not a record") };
    let same = Name::from_ascii(owner).is_ok_and(|owner| owner == record.name)
        && ttl.parse().is_ok_and(|ttl| judge.is_ttl(record.ttl, ttl))
        && rtype(kind) == u16::from(record.record_type());
    let data = match rest {
        ["..."] => return same,
        ["\\#", length, bytes] => {
            let bytes = hex(bytes);
            assert_eq!(length.parse(), Ok(bytes.len()), "{line}");
            return same && matches!(&record.data, RData::Unknown { rdata, .. } if rdata.anything == bytes);
        }
        _ => Parser::new(line.replace(" HINFO ", " IN HINFO "), None, Some(Name::root())).parse(),
    };
    let (_, sets) = data.unwrap_or_else(|error| panic!("{line}: {error}"));
    same && sets.values().flat_map(|set| set.records_without_rrsigs()).all(|wanted| wanted.data == record.data)
}

fn long_name(short: &str) -> &str {
    match short {
        "FORMERR" => "FORMERROR",
        "SERVFAIL" => "SERVERFAILURE",
        "NXDOMAIN" => "NON-EXISTENTDOMAIN",
        "NOTIMP" => "NOTIMPLEMENTED",
        "REFUSED" => "QUERYREFUSED",
        "BADVERS" => "TSIGFAILURE",
        other => other,
    }
}

fn tell(message: &Message) -> String {
    message.to_string().replace('\n', "\n    ")
}
