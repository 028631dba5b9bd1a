//! Queries as bytes.

/// Record type of IPv4 addresses.
pub const A: u16 = 1;
/// Record type of texts.
pub const TXT: u16 = 16;
/// Padding of a padded query (RFC 7830), in bytes.
const PADDING: u16 = 60_000;
/// Option code of padding.
const PADDING_OPTION: u16 = 12;
/// Record type of the OPT record.
const OPT: u8 = 41;

/// Returns a query with RD set. Each label of the name must be at most 63 bytes long.
pub fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(name.len() + 18);
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&qtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// Adds an OPT record of 60 KB to a query.
pub fn padded(mut message: Vec<u8>) -> Vec<u8> {
    message[11] = 1;
    message.extend_from_slice(&[0, 0, OPT, 4, 208, 0, 0, 0, 0]);
    for number in [PADDING + 4, PADDING_OPTION, PADDING] {
        message.extend_from_slice(&number.to_be_bytes());
    }
    message.resize(message.len() + usize::from(PADDING), 0);
    message
}

/// Adds the length that precedes a message over TCP.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = message.len() as u16; // messages here are shorter than 64 KiB
    [&length.to_be_bytes()[..], message].concat()
}

/// Returns a name of `labels` labels of one character before `zone`; the first labels encode `number`.
pub fn long_name(number: u64, labels: usize, zone: &str) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut name = String::with_capacity(labels * 2 + zone.len());
    for at in 0..labels {
        let digit = number.checked_shr(5 * at as u32).unwrap_or(0) % 32;
        name.push(char::from(DIGITS[digit as usize]));
        name.push('.');
    }
    name + zone
}
