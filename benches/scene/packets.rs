//! Queries and responses as bytes.

use std::fmt;

use nodens::wire::{HEADER, RrType, rtype};

/// Name as long as those of a CI cluster.
pub(crate) const NAME: &str = "registry.gitlab.example.com";

/// TTL of every record, in seconds.
const TTL: u32 = 300;

/// OPT record: 1,232 bytes, no options.
const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";

/// Query and the upstream's response.
pub(crate) struct Case {
    label: &'static str,
    /// The client's query.
    pub(crate) query: Vec<u8>,
    /// The upstream's response.
    pub(crate) response: Vec<u8>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label)
    }
}

/// Returns the usual queries of clients, and some whose responses take more work.
pub(crate) fn cases() -> Vec<Case> {
    vec![a(), a_with_edns(), a_in_mixed_case(), aaaa(), chain()]
}

/// Returns a response with two addresses.
pub(crate) fn a() -> Case {
    let query = query(NAME, rtype::A);
    Case { label: "A", response: response(&query, &addresses(2)), query }
}

/// Returns the same for a client with EDNS.
pub(crate) fn a_with_edns() -> Case {
    let case = a();
    Case { label: "A, EDNS", query: with_edns(case.query), ..case }
}

/// Returns the same for a client that uses random letter case.
pub(crate) fn a_in_mixed_case() -> Case {
    let mut case = a();
    for byte in case.query[HEADER..].iter_mut().step_by(2) {
        byte.make_ascii_uppercase();
    }
    Case { label: "A, mixed case", ..case }
}

/// Returns a response with two IPv6 addresses.
pub(crate) fn aaaa() -> Case {
    let query = query(NAME, rtype::AAAA);
    let address = |n: u8| record(QUESTION, rtype::AAAA, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
    Case { label: "AAAA", response: response(&query, &[address(1), address(2)]), query }
}

/// Returns a response with two CNAMEs and two addresses.
pub(crate) fn chain() -> Case {
    let query = query(NAME, rtype::A);
    let (first, second) = (name("edge.cdn.example.net"), name("pop-7.edge.cdn.example.net"));
    let address = |n| record(&second, rtype::A, &[192, 0, 2, n]);
    let records =
        [record(QUESTION, rtype::CNAME, &first), record(&first, rtype::CNAME, &second), address(1), address(2)];
    Case { label: "CNAME, CNAME, A", response: response(&query, &records), query }
}

/// Returns a response with more addresses than fit in 512 bytes.
pub(crate) fn large() -> Case {
    let query = query(NAME, rtype::A);
    Case { label: "A, too large", response: response(&query, &addresses(40)), query }
}

/// Returns a query for the address of the name with this number. Each number has a name of its own.
pub(crate) fn numbered(number: u32) -> Vec<u8> {
    query(&format!("job-{number:08x}.gitlab.example.com"), rtype::A)
}

/// Returns a query as a stub resolver sends it.
pub(crate) fn query(text: &str, qtype: RrType) -> Vec<u8> {
    let header = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00";
    [&header[..], &name(text), &qtype.to_be_bytes(), &[0, 1]].concat()
}

/// Returns the response of an upstream to a query without EDNS. It has an OPT record, because nodens always sends one.
pub(crate) fn response(query: &[u8], answers: &[Vec<u8>]) -> Vec<u8> {
    let mut response = [query, &answers.concat(), OPT].concat();
    response[2..4].copy_from_slice(&[0x81, 0x80]);
    response[7] = answers.len() as u8;
    response[11] = 1;
    response
}

/// Returns addresses of the question's name.
pub(crate) fn addresses(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| record(QUESTION, rtype::A, &[192, 0, 2, n])).collect()
}

/// Compression pointer to the question's name.
const QUESTION: &[u8] = &[0xc0, HEADER as u8];

fn record(owner: &[u8], rtype: RrType, rdata: &[u8]) -> Vec<u8> {
    let length = rdata.len() as u16;
    [owner, &rtype.to_be_bytes(), &[0, 1], &TTL.to_be_bytes(), &length.to_be_bytes(), rdata].concat()
}

fn with_edns(mut query: Vec<u8>) -> Vec<u8> {
    query[11] = 1;
    query.extend(OPT);
    query
}

fn name(text: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    text.split('.').flat_map(label).chain([0]).collect()
}
