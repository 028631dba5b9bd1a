//! Domain names: the owned, lower-case form for keys and zones, and parsing of names in a message.

use std::fmt;
use std::str::FromStr;

/// Maximum size in bytes of a name in wire form, root label included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Zone of the names that nodens itself answers or queries: `nodens.internal`, in wire form.
pub const OWN_ZONE: &[u8] = b"\x06nodens\x08internal\x00";
/// Maximum size in bytes of a label (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;
/// Maximum number of pointers followed in one name: it has at most 127 labels, and a pointer to a pointer is redundant.
const MAX_POINTERS: usize = 127;

/// A domain name in uncompressed wire form, in lower case (RFC 4343), from 1 (the root) to 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// Reason why text or bytes are not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No text, or two consecutive dots.
    #[error("a label is empty")]
    EmptyLabel,
    /// A label longer than 63 bytes.
    #[error("a label is longer than 63 bytes")]
    LabelTooLong,
    /// A name longer than 255 bytes.
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// A backslash not followed by a character or by three digits up to 255, a space, or a character outside ASCII.
    #[error("a character is not allowed: use ASCII, \\. for a dot inside a label, \\DDD for any byte")]
    BadCharacter,
    /// The bytes end before the name does, hold a compressed name, or continue after it.
    #[error("the bytes do not hold a plain name")]
    BadWire,
}

impl Name {
    /// Returns the root, `.`.
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads a name from uncompressed wire form, which must fill `wire`; letters become lower case.
    pub fn from_wire(wire: &[u8]) -> Result<Self, NameError> {
        match plain_len(wire) {
            Some(len) if len == wire.len() => Ok(Self(wire.to_ascii_lowercase().into())),
            _ => Err(NameError::BadWire),
        }
    }

    /// Returns the wire form, root label included.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Reports whether the name is the root.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// Returns the number of labels without the root label.
    pub fn label_count(&self) -> usize {
        suffixes(&self.0).count() - 1
    }

    /// Reports whether the name is `zone` or below it.
    pub fn is_within(&self, zone: &Name) -> bool {
        suffixes(&self.0).any(|suffix| suffix == zone.as_wire())
    }
}

/// Returns the name and its ancestors up to the root, in wire form: for `a.b.` these are `a.b.`, `b.` and the root.
///
/// `wire` must be a whole uncompressed name; for anything else the iterator ends early.
pub fn suffixes(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(wire);
    std::iter::from_fn(move || {
        let here = rest.filter(|here| !here.is_empty())?;
        let label = usize::from(here[0]);
        rest = if label == 0 { None } else { here.get(1 + label..) };
        Some(here)
    })
}

/// Returns the name at `at` uncompressed, or `None` if it is malformed.
pub fn expanded(message: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut buffer = [0; MAX_NAME];
    expand(message, at, &mut buffer).map(|len| buffer[..len].to_vec())
}

/// Returns the length of the uncompressed name at the start of `bytes`, root label included; `None` if there is none.
#[inline]
pub fn plain_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < MAX_NAME {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            label if usize::from(label) <= MAX_LABEL => at += 1 + usize::from(label),
            _ => return None,
        }
    }
    None
}

/// Returns the offset after the name at `at` in `message`, compressed or not; `None` if it is malformed.
///
/// The function checks that pointers point backwards, but does not follow them.
#[inline]
pub fn skip(message: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            0xc0.. => {
                let target = usize::from(super::u16_at(message, at)? & 0x3fff);
                return (target < at && target >= super::HEADER).then_some(at + 2);
            }
            _ => return None,
        }
        if at - start >= MAX_NAME {
            return None;
        }
    }
}

/// Writes the name at `at` in `message` to `out` in uncompressed form, in its letter case, and returns its length.
///
/// `None` if the name is malformed, is longer than 255 bytes, has a pointer that does not point backwards (which
/// excludes loops), or has more than 127 pointers (which bounds the work for a long chain of pointers).
pub fn expand(message: &[u8], mut at: usize, out: &mut [u8; MAX_NAME]) -> Option<usize> {
    let mut len = 0;
    let mut floor = at;
    let mut pointers = 0;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => {
                *out.get_mut(len)? = 0;
                return Some(len + 1);
            }
            1..=63 => {
                let label = message.get(at..at + 1 + usize::from(length))?;
                out.get_mut(len..len + label.len())?.copy_from_slice(label);
                len += label.len();
                at += label.len();
            }
            0xc0.. => {
                let target = usize::from(super::u16_at(message, at)? & 0x3fff);
                pointers += 1;
                if target >= floor || target < super::HEADER || pointers > MAX_POINTERS {
                    return None;
                }
                floor = target;
                at = target;
            }
            _ => return None,
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Parses the presentation form (RFC 1035 section 5.1), with or without the final dot.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "." {
            return Ok(Self::root());
        }
        let mut wire = vec![0];
        let mut label = 0; // offset of the current label's length byte
        let mut bytes = text.bytes();
        let mut ended = false; // true after a dot
        while let Some(byte) = bytes.next() {
            if ended {
                label = wire.len();
                wire.push(0);
                ended = false;
            }
            match byte {
                b'.' => {
                    if wire[label] == 0 {
                        return Err(NameError::EmptyLabel);
                    }
                    ended = true;
                    continue;
                }
                b'\\' => wire.push(escaped(&mut bytes).ok_or(NameError::BadCharacter)?),
                b'!'..=b'~' => wire.push(byte.to_ascii_lowercase()),
                _ => return Err(NameError::BadCharacter),
            }
            if usize::from(wire[label]) == MAX_LABEL {
                return Err(NameError::LabelTooLong);
            }
            wire[label] += 1;
            if wire.len() >= MAX_NAME {
                return Err(NameError::NameTooLong);
            }
        }
        if wire[label] == 0 {
            return Err(NameError::EmptyLabel);
        }
        wire.push(0);
        Ok(Self(wire.into()))
    }
}

/// Returns the byte that a backslash escapes: X for `\X`, the byte of the decimal value for `\DDD`; letters in lower
/// case.
fn escaped(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let first = bytes.next()?;
    if !first.is_ascii_digit() {
        return first.is_ascii_graphic().then(|| first.to_ascii_lowercase());
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).ok().map(|byte| byte.to_ascii_lowercase())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", DisplayName(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Displays an uncompressed name in presentation form, with its final dot; of a malformed name, the part that can be
/// parsed.
#[derive(Clone, Copy)]
pub struct DisplayName<'a>(pub &'a [u8]);

impl fmt::Display for DisplayName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.first() == Some(&0) {
            return f.write_str(".");
        }
        for suffix in suffixes(self.0) {
            let label = usize::from(suffix[0]);
            for &byte in suffix.get(1..1 + label).unwrap_or_default() {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            if label > 0 {
                f.write_str(".")?;
            }
        }
        Ok(())
    }
}

/// Displays an uncompressed name without the final dot.
#[derive(Clone, Copy)]
pub struct DisplayNoDot<'a>(pub &'a [u8]);

impl fmt::Display for DisplayNoDot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = DisplayName(self.0).to_string();
        f.write_str(text.strip_suffix('.').filter(|bare| !bare.is_empty()).unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, shown) in [
            (".", "."),
            ("Example.COM", "example.com."),
            ("example.com.", "example.com."),
            ("a\\.b.c", "a\\.b.c."),
            ("\\000\\255.x", "\\000\\255.x."),
            ("_https._tcp.x", "_https._tcp.x."),
        ] {
            let name: Name = text.parse().expect(text);
            assert_eq!(name.to_string(), shown);
            assert_eq!(Name::from_wire(name.as_wire()).as_ref(), Ok(&name));
        }
    }

    #[test]
    fn bad_texts() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for (text, error) in [
            ("", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            (long_label.as_str(), NameError::LabelTooLong),
            (long_name.as_str(), NameError::NameTooLong),
            ("a b", NameError::BadCharacter),
            ("b\u{fc}cher.example", NameError::BadCharacter),
            ("a\\25", NameError::BadCharacter),
            ("a\\256", NameError::BadCharacter),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error), "{text}");
        }
    }

    #[test]
    fn suffix_on_label_boundaries() {
        let name = |text: &str| text.parse::<Name>().expect(text);
        assert!(name("a.corp.example").is_within(&name("corp.example")));
        assert!(name("corp.example").is_within(&name("corp.example")));
        assert!(name("corp.example").is_within(&Name::root()));
        assert!(!name("notcorp.example").is_within(&name("corp.example")));
        assert_eq!(name("a.b.c").label_count(), 3);
        assert_eq!(Name::root().label_count(), 0);
    }

    #[test]
    fn pointers_only_backwards() {
        let mut message = vec![0; 12];
        message.extend(b"\x01a\x00"); // 12: a.
        message.extend(b"\x01b\xc0\x0c"); // 15: b.a.
        message.extend(b"\xc0\x13"); // 19: itself
        message.extend(b"\xc0\x20"); // 21: forwards
        let mut out = [0; MAX_NAME];
        assert_eq!(expand(&message, 15, &mut out), Some(5));
        assert_eq!(&out[..5], b"\x01b\x01a\x00");
        assert_eq!(skip(&message, 15), Some(19));
        for bad in [19, 21] {
            assert_eq!(expand(&message, bad, &mut out), None);
            assert_eq!(skip(&message, bad), None);
        }
    }

    #[test]
    fn pointers_to_pointers_are_followed_only_so_far() {
        let mut message = vec![0; 12];
        message.extend(b"\x01a\x00"); // 12
        for target in std::iter::once(12).chain((15..).step_by(2)).take(MAX_POINTERS + 1) {
            message.extend((0xc000u16 | target).to_be_bytes());
        }
        let mut out = [0; MAX_NAME];
        assert_eq!(expand(&message, message.len() - 4, &mut out), Some(3));
        assert_eq!(expand(&message, message.len() - 2, &mut out), None);
    }

    #[test]
    fn plain_names_at_their_limit() {
        let mut longest = [[63; 64], [63; 64], [63; 64], [63; 64]].concat();
        longest[192] = 61;
        longest[254] = 0;
        assert_eq!(plain_len(&longest), Some(MAX_NAME));
        longest[192] = 62;
        longest[255] = 0;
        assert_eq!(plain_len(&longest), None);
        for bad in [&b""[..], b"\x01a", b"\x40", b"\xc0\x0c"] {
            assert_eq!(plain_len(bad), None);
        }
    }
}
