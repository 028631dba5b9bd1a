//! DNS as bytes: no allocation on the hot path, no clock, no I/O.
//!
//! A message is never turned into a tree of records and back, so what nodens does not know it cannot damage (RFC 3597,
//! RFC 5625). The modules read a message where it lies and note offsets:
//!
//! - [`name`] one domain name;
//! - [`rcode`] response codes, [`rtype`] types;
//! - [`query`] what a client asked, or why it gets no real answer;
//! - [`record`] where one record lies;
//! - [`reply`] what an upstream answered: is it ours, is it whole, where do its TTLs lie;
//! - [`store`] a reply made ready to be kept;
//! - [`fit`] a stored reply fitted to one client's query: id, letter case, aged TTLs, OPT, size;
//! - [`spelling`] the client's letter case in names that are written out;
//! - [`make`] messages that nodens writes itself: queries to upstreams, errors, local answers;
//! - [`compose`] a new reply from the records of others, where a CNAME leads into another route.

pub mod compose;
pub mod fit;
pub mod make;
pub mod name;
pub mod query;
pub mod rcode;
pub mod record;
pub mod reply;
pub mod rtype;
pub mod spelling;
pub mod store;
pub mod text;

pub use rcode::Rcode;
pub use rtype::RrType;

/// Bytes of the fixed header (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;

/// Bytes of the longest message: what a length of two bytes can say (RFC 1035 section 4.2.2).
pub const LONGEST_MESSAGE: usize = 65_535;

/// The UDP payload size nodens advertises, to clients and to upstreams (RFC 9715: avoids fragments on every usual path).
pub const ADVERTISED_SIZE: u16 = 1232;

/// The least UDP payload size that a client may claim, and what it has without EDNS (RFC 1035, RFC 6891 section 6.2.3).
pub const PLAIN_SIZE: u16 = 512;

/// The largest UDP reply that nodens sends, whatever the client claims: node-local paths carry it, and buffers stay small.
pub const LARGEST_UDP_REPLY: u16 = 4096;

/// Header flag bits, as they lie in bytes 2 and 3 of a message.
pub mod flag {
    /// This is a response.
    pub const QR: u16 = 0x8000;
    /// The opcode's four bits; 0 is QUERY.
    pub const OPCODE: u16 = 0x7800;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// The one bit that is still reserved; passed through.
    pub const Z: u16 = 0x0040;
    /// Authentic data (RFC 4035).
    pub const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035).
    pub const CD: u16 = 0x0010;
    /// The response code's four low bits.
    pub const RCODE: u16 = 0x000f;
}

/// Classes (RFC 1035, RFC 2136).
pub mod class {
    /// The Internet.
    pub const IN: u16 = 1;
    /// Chaos: a server's own facts, such as `version.bind`.
    pub const CH: u16 = 3;
    /// NONE, for UPDATE only.
    pub const NONE: u16 = 254;
    /// Any class, as a question.
    pub const ANY: u16 = 255;
}

/// EDNS option codes that some rule is about.
pub mod option {
    /// Name server identifier (RFC 5001).
    pub const NSID: u16 = 3;
    /// edns-tcp-keepalive (RFC 7828).
    pub const KEEPALIVE: u16 = 11;
    /// Extended DNS error (RFC 8914).
    pub const EDE: u16 = 15;
}

/// Extended DNS error codes that nodens gives (RFC 8914).
pub mod ede {
    /// None of the others; the text says what.
    pub const OTHER: u16 = 0;
    /// A stale positive or NODATA answer.
    pub const STALE: u16 = 3;
    /// The failure is remembered, nobody was asked.
    pub const CACHED_ERROR: u16 = 13;
    /// Whoever runs this server denies the name.
    pub const BLOCKED: u16 = 15;
    /// An authority outside of this server demands that the name be denied.
    pub const CENSORED: u16 = 16;
    /// Filtered by policy of this server.
    pub const FILTERED: u16 = 17;
    /// This client may not ask.
    pub const PROHIBITED: u16 = 18;
    /// A stale NXDOMAIN.
    pub const STALE_NXDOMAIN: u16 = 19;
    /// No upstream could be reached in time.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// An upstream could be reached, but failed.
    pub const NETWORK_ERROR: u16 = 23;
    /// Made by the server itself, of what it knows, instead of asking.
    pub const SYNTHESIZED: u16 = 29;

    /// Whether a server that says this does not want to answer, by a policy of its own or of somebody else (RFC 8914
    /// sections 4.16 to 4.19).
    pub fn is_policy(code: u16) -> bool {
        matches!(code, BLOCKED | CENSORED | FILTERED | PROHIBITED)
    }
}

/// Whether a message says that a part of it had to be left out (TC).
pub fn is_truncated(message: &[u8]) -> bool {
    u16_at(message, 2).is_some_and(|flags| flags & flag::TC != 0)
}

/// The big-endian `u16` at `at`, if it lies within `bytes`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

/// The big-endian `u32` at `at`, if it lies within `bytes`.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}
