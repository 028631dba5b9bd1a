//! Cache keys: what distinguishes one answer from another.

use super::name::{self, MAX_NAME};
use super::query::Query;
use super::{RrType, class, flag, u16_at};

/// Cache key of a query, as bytes: the name in lower case, type, class, flags, view.
///
/// The key is on the stack, so a lookup does not allocate.
#[derive(Clone)]
pub struct CacheKey {
    bytes: [u8; MAX_NAME + Self::TAIL],
    len: usize,
}

/// Number of the routes, static records and denials that apply to the clients of a view. See [`crate::effective_view`]; here
/// it is only a part of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectiveViewId(u16);

impl EffectiveViewId {
    /// Number for clients without a view, and for views that have the same effect as none.
    pub const COMMON: Self = Self(0);

    /// Returns the number with this index in a configuration.
    pub const fn of_index(index: u16) -> Self {
        Self(index)
    }

    /// Returns the index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bits of the flag byte of a key.
mod bit {
    pub(super) const RD: u8 = 1;
    pub(super) const CD: u8 = 2;
    pub(super) const DNSSEC_OK: u8 = 4;
    pub(super) const Z: u8 = 8;
}

impl CacheKey {
    /// Size in bytes of the data after the name: type, class, flags, view.
    const TAIL: usize = 7;

    /// Returns the key of `query` for a client with this view.
    #[inline]
    pub fn new(query: &Query<'_>, effective_view: EffectiveViewId) -> Self {
        let mut flags = 0;
        for (set, bit) in [
            (query.flags & flag::RD != 0, bit::RD),
            (query.flags & flag::CD != 0, bit::CD),
            (query.dnssec_ok(), bit::DNSSEC_OK),
            (query.flags & flag::Z != 0, bit::Z),
        ] {
            flags |= if set { bit } else { 0 };
        }
        Self::of(query.name(), query.qtype, query.qclass, flags, effective_view)
    }

    /// Returns the key of a typical query of a stub resolver: RD set, class IN, no other flags.
    pub fn of_stub(name: &[u8], qtype: RrType, effective_view: EffectiveViewId) -> Self {
        Self::of(name, qtype, class::IN, bit::RD, effective_view)
    }

    /// Returns the key for another name, such as the target of a CNAME.
    pub fn for_name(&self, wire: &[u8]) -> Self {
        Self::of(wire, self.qtype(), self.qclass(), self.tail()[4], self.effective_view())
    }

    /// Returns the key for another name and type.
    pub fn for_question(&self, wire: &[u8], qtype: RrType) -> Self {
        Self::of(wire, qtype, self.qclass(), self.tail()[4], self.effective_view())
    }

    /// Returns the key with this [`CacheKey::question`] and [`CacheKey::rest`]; `None` if `question` is malformed.
    pub fn from_parts(question: &[u8], rest: [u8; Self::REST]) -> Option<Self> {
        let (name, fixed) = question.split_at_checked(question.len().checked_sub(4)?)?;
        if name.len() > MAX_NAME || name::skip(name, 0) != Some(name.len()) {
            return None;
        }
        let (qtype, qclass) = (RrType::from(u16_at(fixed, 0)?), u16_at(fixed, 2)?);
        let effective_view = EffectiveViewId(u16::from_be_bytes([rest[1], rest[2]]));
        Some(Self::of(name, qtype, qclass, rest[0], effective_view))
    }

    #[inline]
    fn of(wire: &[u8], qtype: RrType, qclass: u16, flags: u8, effective_view: EffectiveViewId) -> Self {
        let mut key = Self { bytes: [0; MAX_NAME + Self::TAIL], len: 0 };
        let name = wire.get(..wire.len().min(MAX_NAME)).unwrap_or_default();
        key.bytes[..name.len()].copy_from_slice(name);
        key.bytes[..name.len()].make_ascii_lowercase();
        let tail = &mut key.bytes[name.len()..name.len() + Self::TAIL];
        tail[..2].copy_from_slice(&qtype.to_be_bytes());
        tail[2..4].copy_from_slice(&qclass.to_be_bytes());
        tail[4] = flags;
        tail[5..].copy_from_slice(&effective_view.0.to_be_bytes());
        key.len = name.len() + Self::TAIL;
        key
    }

    /// Returns the whole key.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Size in bytes of [`CacheKey::rest`].
    pub const REST: usize = 3;

    /// Returns the name in lower case, the type and the class, encoded as a question.
    #[inline]
    pub fn question(&self) -> &[u8] {
        &self.bytes[..self.len - Self::REST]
    }

    /// Returns the data that is not in the question: flags and view.
    #[inline]
    pub fn rest(&self) -> [u8; Self::REST] {
        let at = self.len - Self::REST;
        [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2]]
    }

    /// Returns the name in lower-case wire form.
    #[inline]
    pub fn name(&self) -> &[u8] {
        &self.bytes[..self.len - Self::TAIL]
    }

    /// Returns the type in the question.
    pub fn qtype(&self) -> RrType {
        u16::from_be_bytes([self.tail()[0], self.tail()[1]]).into()
    }

    /// Returns the class in the question.
    pub fn qclass(&self) -> u16 {
        u16::from_be_bytes([self.tail()[2], self.tail()[3]])
    }

    /// Returns the number of the client's view.
    pub fn effective_view(&self) -> EffectiveViewId {
        EffectiveViewId(u16::from_be_bytes([self.tail()[5], self.tail()[6]]))
    }

    /// Reports whether RD (recursion desired) is set.
    pub fn rd(&self) -> bool {
        self.tail()[4] & bit::RD != 0
    }

    /// Reports whether CD (checking disabled) is set.
    pub fn cd(&self) -> bool {
        self.tail()[4] & bit::CD != 0
    }

    /// Reports whether DO (DNSSEC OK) is set.
    pub fn dnssec_ok(&self) -> bool {
        self.tail()[4] & bit::DNSSEC_OK != 0
    }

    /// Reports whether the reserved bit of the header is set.
    pub fn z(&self) -> bool {
        self.tail()[4] & bit::Z != 0
    }

    fn tail(&self) -> &[u8] {
        &self.bytes[self.len - Self::TAIL..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtype;

    const OPT_WITH_DO: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    /// Returns a query for `A.` with these flags, type and class, and with DO if `dnssec_ok`.
    fn query(flags: u16, qtype: RrType, qclass: u16, dnssec_ok: bool) -> Vec<u8> {
        let mut packet: Vec<u8> =
            [0x1234, flags, 1, 0, 0, u16::from(dnssec_ok)].into_iter().flat_map(u16::to_be_bytes).collect();
        packet.extend(b"\x01A\x00");
        packet.extend([qtype.into(), qclass].into_iter().flat_map(u16::to_be_bytes));
        packet.extend(if dnssec_ok { OPT_WITH_DO } else { &[] });
        packet
    }

    #[test]
    fn keys_ignore_letter_case_alone() {
        let key = |bytes: &[u8], view| {
            CacheKey::new(&Query::read(bytes).expect("a query"), EffectiveViewId(view)).as_bytes().to_vec()
        };
        let base = query(flag::RD, rtype::A, class::IN, false);
        let mut lower = base.clone();
        lower[13] = b'a';
        lower[0] = 0; // the id
        assert_eq!(key(&base, 0), key(&lower, 0));
        assert_ne!(key(&base, 0), key(&base, 1));
        for other in [
            query(0, rtype::A, class::IN, false),
            query(flag::RD | flag::CD, rtype::A, class::IN, false),
            query(flag::RD | flag::Z, rtype::A, class::IN, false),
            query(flag::RD, rtype::A, class::IN, true),
            query(flag::RD, rtype::AAAA, class::IN, false),
            query(flag::RD, rtype::A, class::CH, false),
        ] {
            assert_ne!(key(&base, 0), key(&other, 0), "{other:02x?}");
        }
        assert_eq!(key(&base, 7), CacheKey::of_stub(b"\x01A\x00", rtype::A, EffectiveViewId(7)).as_bytes());
        let query = Query::read(&base).expect("a query");
        let key = CacheKey::new(&query, EffectiveViewId(7)).for_name(b"\x01B\x00");
        assert_eq!(
            (key.name(), key.qtype(), key.qclass(), key.effective_view()),
            (&b"\x01b\x00"[..], rtype::A, class::IN, EffectiveViewId(7))
        );
        assert!(key.rd() && !key.cd() && !key.dnssec_ok() && !key.z());
    }
}
