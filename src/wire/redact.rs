//! Removal of addresses from explanations, for clients that must not learn them.
//!
//! nodens writes an address as a word of its own, so such words are removed and the rest of the text stays. If an address is left
//! in another form, which only a server's text can have, the whole text is removed.

use std::net::{IpAddr, SocketAddr};

use super::u16_at;

/// Part of extended errors that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Info-codes, and texts without addresses.
    Texts,
    /// Info-codes, without any text.
    Codes,
}

/// Returns a text without addresses; empty if they cannot be removed.
pub(crate) fn without_addresses(text: &str) -> String {
    words(text).map_or_else(String::new, |words| words.collect::<Vec<_>>().join(" "))
}

/// Copies this part of extended errors (whole options) to `out`, as far as there is room. Returns the copied options.
pub(crate) fn extended_errors<'o>(mut options: &[u8], keep: Keep, out: &'o mut [u8]) -> &'o [u8] {
    let mut end = 0;
    while let Some(length) = u16_at(options, 2) {
        let size = 4 + usize::from(length);
        let (Some(head), Some(text)) = (options.get(..6), options.get(6..size)) else { break };
        let Some(room) = out.get_mut(end..) else { break };
        let Some(copied) = copy(head, text, keep, room) else { break };
        end += copied;
        options = &options[size..];
    }
    out.get(..end).unwrap_or_default()
}

/// Copies an option, given as its first six bytes and its text. Returns its new size; `None` if there is no room.
fn copy(head: &[u8], text: &[u8], keep: Keep, out: &mut [u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok().filter(|_| keep == Keep::Texts).and_then(words);
    out.get_mut(..head.len())?.copy_from_slice(head);
    let mut end = head.len();
    for (number, word) in text.into_iter().flatten().enumerate() {
        let space: &[u8] = if number == 0 { b"" } else { b" " };
        for part in [space, word.as_bytes()] {
            out.get_mut(end..end + part.len())?.copy_from_slice(part);
            end += part.len();
        }
    }
    // No longer than before.
    out[2..4].copy_from_slice(&((end - 4) as u16).to_be_bytes());
    Some(end)
}

/// Returns the words of a text except addresses; `None` if another word contains an address.
fn words(text: &str) -> Option<impl Iterator<Item = &str>> {
    let is_address = |word: &&str| word.parse::<SocketAddr>().is_ok() || word.parse::<IpAddr>().is_ok();
    let rest = text.split(' ').filter(move |word| !is_address(word));
    (!rest.clone().any(contains_address)).then_some(rest)
}

/// Reports whether a word may contain an address: four numbers with dots or dashes between them, or hexadecimal numbers with at
/// least two colons.
fn contains_address(word: &str) -> bool {
    let is_ipv4 = |run: &str| run.split(['.', '-']).filter(|number| !number.is_empty()).count() >= 4;
    let is_ipv6 = |run: &str| {
        // A colon behind a word is punctuation.
        let run = if run.ends_with("::") { run } else { run.trim_end_matches(':') };
        run.bytes().filter(|byte| *byte == b':').count() >= 2
    };
    word.split(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-'))).any(is_ipv4)
        || word.split(|c: char| !(c.is_ascii_hexdigit() || c == ':')).any(is_ipv6)
}

#[cfg(test)]
mod tests {
    use super::super::write::extended_error;
    use super::*;

    #[test]
    fn addresses_are_removed_or_the_whole_text() {
        for (text, expected) in [
            ("upstream corp: 10.0.0.2:53 no response", "upstream corp: no response"),
            (
                "upstream corp: [fd00::2]:53 port closed, 10.0.0.3:853 network error over TLS",
                "upstream corp: port closed, network error over TLS",
            ),
            (
                "upstream corp: 10.0.0.2:53 SERVFAIL; extended error 22 by fd00::1 and 10.1.1.1",
                "upstream corp: SERVFAIL; extended error 22 by and",
            ),
            ("upstream corp: 10.0.0.2:53 SERVFAIL; extended error 22 by 10.1.1.1#53", ""),
            ("by 10.1.1.1", "by"),
            ("by (10.1.1.1)", ""),
            ("by 10.1.1.1.", ""),
            ("by fd00::1%eth0#53", ""),
            ("by fd00::", "by"),
            ("by ip-10-0-0-2.ec2.internal", ""),
            ("1.2.0.10.in-addr.arpa", ""),
            (
                "version 1.17.1, 2026-11-30 12:30: see https://example.com/a?b=c",
                "version 1.17.1, 2026-11-30 12:30: see https://example.com/a?b=c",
            ),
            ("no reply... max_qps = 100", "no reply... max_qps = 100"),
            ("", ""),
        ] {
            assert_eq!(without_addresses(text), expected, "{text}");
        }
    }

    #[test]
    fn options_keep_their_codes() {
        let text = "upstream corp: 10.0.0.2:53 no response";
        let options = [extended_error(22, text), extended_error(13, "remembered"), extended_error(0, "")].concat();
        let shown =
            [extended_error(22, "upstream corp: no response"), extended_error(13, "remembered"), extended_error(0, "")]
                .concat();
        let codes = [22, 13, 0].map(|code| extended_error(code, "")).concat();
        let mut out = [0xff; 128];
        assert_eq!(extended_errors(&options, Keep::Texts, &mut out), shown);
        assert_eq!(extended_errors(&options, Keep::Codes, &mut out), codes);
        assert_eq!(extended_errors(&options, Keep::Codes, &mut out[..13]), &codes[..12], "whole options");
        assert_eq!(extended_errors(&options, Keep::Texts, &mut out[..20]), b"");
        assert_eq!(extended_errors(&options[..options.len() - 1], Keep::Codes, &mut out), &codes[..12]);
        assert_eq!(extended_errors(&[0, 15, 0, 1, 9], Keep::Codes, &mut out), b"");
        assert_eq!(extended_errors(&[0, 15, 0, 3, 0, 9, 0xff], Keep::Texts, &mut out), extended_error(9, ""));
    }
}
