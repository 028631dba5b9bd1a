//! Questions about nodens itself, class CH (RFC 4892), and the minimal answer to type ANY (RFC 8482).

use crate::wire::write::LocalRecords;
use crate::wire::{Rcode, RrType, class, rcode, rtype};

/// TTL of the minimal answer to ANY, in seconds.
const ANY_TTL: u32 = 3_600;

/// Answers a question of class CH: the version, or the node's `identity` unless that is empty. Returns the response code and
/// the records.
pub(crate) fn chaos(name: &[u8], qtype: RrType, identity: &str) -> (Rcode, LocalRecords) {
    let mut records = LocalRecords::default();
    let text = match name {
        b"\x07version\x04bind\x00" | b"\x07version\x06server\x00" => concat!("nodens ", env!("CARGO_PKG_VERSION")),
        b"\x02id\x06server\x00" | b"\x08hostname\x04bind\x00" => identity,
        _ => "",
    };
    if text.is_empty() || !matches!(qtype, rtype::TXT | rtype::ANY) {
        return (rcode::REFUSED, records);
    }
    let mut rdata = vec![text.len() as u8];
    rdata.extend_from_slice(text.as_bytes());
    records.answer(rtype::TXT, 0, &rdata);
    records.set_class(class::CH);
    (rcode::NOERROR, records)
}

/// Returns the answer to type ANY: one HINFO record that refers to the explanation (RFC 8482 section 4.2).
pub(crate) fn any() -> LocalRecords {
    let mut records = LocalRecords::default();
    records.answer(rtype::HINFO, ANY_TTL, b"\x07RFC8482\x00");
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_identity_are_told_and_nothing_else() {
        const VERSION: &[u8] = b"\x07version\x04bind\x00";
        const HOST: &[u8] = b"\x08hostname\x04bind\x00";
        for (name, qtype, identity, told) in [
            (VERSION, rtype::TXT, "", Some(concat!("nodens ", env!("CARGO_PKG_VERSION")))),
            (HOST, rtype::TXT, "node-7", Some("node-7")),
            (b"\x02id\x06server\x00", rtype::ANY, "node-7", Some("node-7")),
            (HOST, rtype::TXT, "", None),
            (VERSION, rtype::A, "node-7", None),
            (b"\x07authors\x04bind\x00", rtype::TXT, "node-7", None),
        ] {
            let (code, records) = chaos(name, qtype, identity);
            let right = told.map_or((rcode::REFUSED, 0), |_| (rcode::NOERROR, 1));
            assert_eq!((code, records.answers), right);
            if let Some(told) = told {
                assert_eq!(records.wire[4..6], class::CH.to_be_bytes());
                assert!(records.wire.ends_with(told.as_bytes()));
            }
        }
    }
}
