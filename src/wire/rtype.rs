//! Record and query types.

#![allow(missing_docs)]

use std::fmt;

use hickory_proto::rr::RecordType;

/// Reserved type that no record has, in place of a type that is missing or cannot be parsed (RFC 6895 section 3.1).
pub const RESERVED: RrType = RrType(0);
pub const A: RrType = RrType(1);
pub const NS: RrType = RrType(2);
pub const CNAME: RrType = RrType(5);
pub const SOA: RrType = RrType(6);
pub const PTR: RrType = RrType(12);
pub const HINFO: RrType = RrType(13);
pub const MX: RrType = RrType(15);
pub const TXT: RrType = RrType(16);
pub const AAAA: RrType = RrType(28);
pub const SRV: RrType = RrType(33);
pub const DNAME: RrType = RrType(39);
pub const OPT: RrType = RrType(41);
pub const DS: RrType = RrType(43);
pub const RRSIG: RrType = RrType(46);
pub const NSEC: RrType = RrType(47);
pub const NSEC3: RrType = RrType(50);
pub const SVCB: RrType = RrType(64);
pub const HTTPS: RrType = RrType(65);
pub const TKEY: RrType = RrType(249);
pub const TSIG: RrType = RrType(250);
pub const IXFR: RrType = RrType(251);
pub const AXFR: RrType = RrType(252);
pub const MAILB: RrType = RrType(253);
pub const MAILA: RrType = RrType(254);
pub const ANY: RrType = RrType(255);

/// Type of a record (RFC 9499: RRtype) or of a question. The types with a constant have special handling; all others
/// pass through as numbers (RFC 3597).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RrType(u16);

impl RrType {
    /// Returns the two bytes of the type in a message.
    #[inline]
    pub const fn to_be_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}

impl From<u16> for RrType {
    /// Converts a number; every number is a type.
    #[inline]
    fn from(number: u16) -> Self {
        Self(number)
    }
}

impl From<RrType> for u16 {
    #[inline]
    fn from(rtype: RrType) -> Self {
        rtype.0
    }
}

impl From<RecordType> for RrType {
    fn from(rtype: RecordType) -> Self {
        Self(rtype.into())
    }
}

impl fmt::Display for RrType {
    /// Writes the mnemonic, or for example `TYPE65280` (RFC 3597 section 5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RecordType::from(self.0) {
            RecordType::Unknown(number) => write!(f, "TYPE{number}"),
            known => fmt::Display::fmt(&known, f),
        }
    }
}

impl fmt::Debug for RrType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_with_a_mnemonic_and_without() {
        let types = [A, HTTPS, ANY, RrType::from(65_280), RrType::from(0)];
        assert_eq!(types.map(|rtype| rtype.to_string()), ["A", "HTTPS", "ANY", "TYPE65280", "ZERO"]);
    }
}
