//! DNS wire format: no allocation on the hot path, no clock, no I/O.
//!
//! nodens never decodes a message into records and encodes it again, so unknown record types pass unchanged (RFC 3597,
//! RFC 5625). The modules read a message in place and note offsets:
//!
//! - [`name`] domain names;
//! - [`rcode`] response codes, [`rtype`] record types;
//! - [`query`] parsed queries of clients, and the reasons to reject a query;
//! - [`cache_key`] what distinguishes one answer from another;
//! - [`record`] offsets of one record;
//! - [`response`] parsed responses of servers;
//! - [`store`] conversion of a response to the form that the cache keeps;
//! - [`fit`] a cached response adapted to one query: id, letter case, aged TTLs, OPT, size;
//! - [`spelling`] letter case of uncompressed names;
//! - [`mod@write`] parts and messages that nodens writes itself: errors, local answers, OPT records;
//! - `redact` extended errors without the addresses of servers;
//! - [`compose`] new responses built from copied records, for example where a CNAME leads into another route.

pub mod cache_key;
pub mod compose;
pub mod fit;
pub mod name;
pub mod query;
pub mod rcode;
pub mod record;
pub(crate) mod redact;
pub mod response;
pub mod rtype;
pub(crate) mod spelling;
pub mod store;
pub(crate) mod text;
pub mod write;

pub use rcode::Rcode;
pub use rtype::RrType;

/// Size of the header in bytes (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;

/// Maximum size of a message in bytes, the limit of a two-byte length (RFC 1035 section 4.2.2).
pub const LONGEST_MESSAGE: usize = 65_535;

/// UDP payload size that nodens advertises to clients and servers (RFC 9715: avoids fragments on every usual path).
pub const ADVERTISED_SIZE: u16 = 1232;

/// Minimum UDP payload size, and the size without EDNS (RFC 1035, RFC 6891 section 6.2.3).
pub const PLAIN_SIZE: u16 = 512;

/// Maximum size of a UDP response, whatever size the client advertises. Node-local paths carry it, and buffers stay
/// small.
pub const LARGEST_UDP_REPLY: u16 = 4096;

/// Flag bits of the header, as in bytes 2 and 3 of a message.
pub mod flag {
    pub(crate) const QR: u16 = 0x8000;
    /// Opcode, four bits; 0 is QUERY.
    pub const OPCODE: u16 = 0x7800;
    pub(crate) const AA: u16 = 0x0400;
    pub(crate) const TC: u16 = 0x0200;
    pub(crate) const RD: u16 = 0x0100;
    pub(crate) const RA: u16 = 0x0080;
    /// Reserved bit; forwarded in queries, cleared in responses.
    pub const Z: u16 = 0x0040;
    /// Authentic data (RFC 4035).
    pub const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035).
    pub const CD: u16 = 0x0010;
    /// The four low bits of the response code.
    pub const RCODE: u16 = 0x000f;
}

/// Classes (RFC 1035, RFC 2136).
pub mod class {
    pub(crate) const IN: u16 = 1;
    /// Chaos, used for facts about a server such as `version.bind`.
    pub const CH: u16 = 3;
    /// NONE, used only in UPDATE.
    pub const NONE: u16 = 254;
    /// Any class; only valid in a question.
    pub const ANY: u16 = 255;
}

/// EDNS option codes that nodens handles.
pub mod option {
    /// Name server identifier (RFC 5001).
    pub const NSID: u16 = 3;
    pub(crate) const KEEPALIVE: u16 = 11;
    /// Extended DNS error (RFC 8914).
    pub const EDE: u16 = 15;
}

/// Extended DNS error codes that nodens sends or interprets (RFC 8914).
pub mod ede {
    /// Other error; the text explains it.
    pub const OTHER: u16 = 0;
    /// A stale positive or NODATA answer.
    pub const STALE: u16 = 3;
    /// A cached failure; no server was queried.
    pub const CACHED_ERROR: u16 = 13;
    /// The operator of the server denies the name.
    pub const BLOCKED: u16 = 15;
    /// An authority outside the server's operator requires the name to be denied.
    pub const CENSORED: u16 = 16;
    /// Filtered by policy of the server.
    pub const FILTERED: u16 = 17;
    /// The client is not authorized.
    pub const PROHIBITED: u16 = 18;
    pub(crate) const STALE_NXDOMAIN: u16 = 19;
    /// No server of the upstream was reachable in time.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// A server of the upstream was reachable, but failed.
    pub const NETWORK_ERROR: u16 = 23;
    /// Synthesized by the server without a query.
    pub const SYNTHESIZED: u16 = 29;

    /// Reports whether the code means that a policy, of the server or of a third party, denies the answer (RFC 8914
    /// sections 4.16 to 4.19).
    pub fn is_policy(code: u16) -> bool {
        matches!(code, BLOCKED | CENSORED | FILTERED | PROHIBITED)
    }
}

/// Reports whether the message is truncated (TC).
pub fn is_truncated(message: &[u8]) -> bool {
    u16_at(message, 2).is_some_and(|flags| flags & flag::TC != 0)
}

/// Returns the big-endian `u16` at `at`, or `None` past the end of `bytes`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

/// Returns the big-endian `u32` at `at`, or `None` past the end of `bytes`.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}
