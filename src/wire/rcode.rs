//! Response codes (RFC 1035, RFC 2136, RFC 6891).

use std::fmt;

use super::flag;

/// No error; without a matching record it means that the name has no data of the type.
pub const NOERROR: Rcode = Rcode(0);
/// The server cannot parse the query.
pub const FORMERR: Rcode = Rcode(1);
/// The server failed to get an answer.
pub const SERVFAIL: Rcode = Rcode(2);
/// The name does not exist.
pub const NXDOMAIN: Rcode = Rcode(3);
/// The server does not support this kind of query.
pub const NOTIMP: Rcode = Rcode(4);
/// The server refuses to answer.
pub const REFUSED: Rcode = Rcode(5);
/// EDNS version not supported; needs an OPT record, because it exceeds four bits.
pub const BADVERS: Rcode = Rcode(16);

/// Mask of the bits of a code (RFC 6895 section 2.3).
const BITS: u16 = 0x0fff;
/// Number of the bits in the header.
const HEADER_BITS: u32 = flag::RCODE.count_ones();

/// Labels of the first codes, by number.
const LABELS: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// A response code of twelve bits: four in the header, eight in an OPT record (RFC 6895 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rcode(u16);

impl Rcode {
    /// Number of codes with a label of their own in [`Self::label`]; their numbers are the lowest.
    pub const LABELLED: usize = LABELS.len();

    /// Returns the code in the flags of a header: the four low bits.
    #[inline]
    pub const fn of_flags(flags: u16) -> Self {
        Self(flags & flag::RCODE)
    }

    /// Returns the code with the eight high bits of an OPT record (RFC 6891 section 6.1.3).
    #[inline]
    #[must_use]
    pub const fn with_opt_bits(self, high: u8) -> Self {
        Self(self.header_bits() | (high as u16) << HEADER_BITS)
    }

    /// Returns the four low bits, as in the flags of a header.
    #[inline]
    pub const fn header_bits(self) -> u16 {
        self.0 & flag::RCODE
    }

    /// Returns the eight high bits, for an OPT record.
    #[inline]
    pub const fn opt_bits(self) -> u8 {
        (self.0 >> HEADER_BITS) as u8
    }

    /// Returns the index of the code in a table of `slots`. All codes beyond the table share the last slot.
    #[inline]
    pub fn slot(self, slots: usize) -> usize {
        usize::from(self.0).min(slots.saturating_sub(1))
    }

    /// Returns the value of the label `rcode` in metrics, and of `rcode` in APIs and in the query log.
    pub fn label(self) -> &'static str {
        Self::label_of_slot(self.slot(LABELS.len() + 1))
    }

    /// Returns the label of a slot, in a table with a slot for each labelled code and one for all others.
    pub fn label_of_slot(slot: usize) -> &'static str {
        LABELS.get(slot).copied().unwrap_or("other")
    }
}

impl From<u16> for Rcode {
    /// Converts a number; bits above the twelfth are dropped.
    #[inline]
    fn from(number: u16) -> Self {
        Self(number & BITS)
    }
}

impl From<Rcode> for u16 {
    #[inline]
    fn from(code: Rcode) -> Self {
        code.0
    }
}

impl fmt::Display for Rcode {
    /// Writes the mnemonic of the codes of this module, and `RCODE` with the number for all others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (LABELS.get(usize::from(self.0)), *self) {
            (Some(mnemonic), _) => f.pad(mnemonic),
            (None, BADVERS) => f.pad("BADVERS"),
            (None, Self(number)) => write!(f, "RCODE{number}"),
        }
    }
}

impl fmt::Debug for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_rcode_is_split_and_joined() {
        for number in [0, 1, 15, 16, 0x123, 0xfff] {
            let code = Rcode::from(number);
            let flags = 0xfff0 | code.header_bits();
            assert_eq!(u16::from(Rcode::of_flags(flags).with_opt_bits(code.opt_bits())), number);
        }
        assert_eq!((BADVERS.header_bits(), BADVERS.opt_bits()), (0, 1));
        assert_eq!(Rcode::from(0xf003), NXDOMAIN);
    }

    #[test]
    fn codes_with_a_mnemonic_and_without() {
        let codes = [NOERROR, REFUSED, Rcode::from(6), BADVERS, Rcode::from(0xfff)];
        assert_eq!(codes.map(|code| code.to_string()), ["NOERROR", "REFUSED", "RCODE6", "BADVERS", "RCODE4095"]);
        assert_eq!(codes.map(Rcode::label), ["NOERROR", "REFUSED", "other", "other", "other"]);
        assert_eq!(codes.map(|code| code.slot(6)), [0, 5, 5, 5, 5]);
    }
}
