//! Questions about nodens itself, class CH (RFC 4892), and the least answer to type ANY (RFC 8482).

use crate::wire::make::LocalRecords;
use crate::wire::{Rcode, RrType, class, rcode, rtype};

/// How long the least answer to ANY may be cached, in seconds.
const ANY_TTL: u32 = 3_600;

/// What is answered to class CH: the version; the host's name is nobody's business. A response code and its records.
pub fn chaos(name: &[u8], qtype: RrType) -> (Rcode, LocalRecords) {
    let mut records = LocalRecords::default();
    let known = [&b"\x07version\x04bind\x00"[..], b"\x07version\x06server\x00"].contains(&name);
    if !known || !matches!(qtype, rtype::TXT | rtype::ANY) {
        return (rcode::REFUSED, records);
    }
    let text = concat!("nodens ", env!("CARGO_PKG_VERSION"));
    let mut rdata = vec![text.len() as u8];
    rdata.extend_from_slice(text.as_bytes());
    records.answer(rtype::TXT, 0, &rdata);
    records.set_class(class::CH);
    (rcode::NOERROR, records)
}

/// The answer to type ANY: one HINFO record that says where to read why (RFC 8482 section 4.2).
pub fn any() -> LocalRecords {
    let mut records = LocalRecords::default();
    records.answer(rtype::HINFO, ANY_TTL, b"\x07RFC8482\x00");
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_is_told() {
        let (code, records) = chaos(b"\x07version\x04bind\x00", rtype::TXT);
        assert_eq!((code, records.answers), (rcode::NOERROR, 1));
        assert_eq!(records.wire[4..6], class::CH.to_be_bytes());
        for (name, qtype) in [(&b"\x08hostname\x04bind\x00"[..], rtype::TXT), (b"\x07version\x04bind\x00", rtype::A)] {
            assert_eq!(chaos(name, qtype).0, rcode::REFUSED);
        }
    }
}
