//! Letter case of uncompressed names that end in labels of the question: these labels get the letter case of the query.
//!
//! A name that ends in a pointer to the question follows its case automatically. The target of an SRV record must not
//! have a pointer (RFC 2782), and some servers never write one.

use std::ops::Range;

use super::name::{self, MAX_NAME};
use super::record::{Record, Section};
use super::{HEADER, u16_at};

/// Returns the range in `message` of the uncompressed labels of the name at `at` that `qname` ends in as well, and
/// their spelling in `qname`.
pub(crate) fn shared<'q>(message: &[u8], at: usize, qname: &'q [u8]) -> Option<(Range<usize>, &'q [u8])> {
    let own = written_out(message, at);
    if own == 0 {
        return None;
    }
    let mut buffer = [0; MAX_NAME];
    let len = name::expand(message, at, &mut buffer)?;
    let spelled = |end: &[u8]| qname.get(qname.len().checked_sub(end.len())?..);
    let is_shared = |end: &&[u8]| end.len() > 1 && spelled(end).is_some_and(|tail| tail.eq_ignore_ascii_case(end));
    let end = name::suffixes(&buffer[..len]).find(is_shared)?;
    let before = len - end.len();
    let tail = spelled(end)?.get(..own.checked_sub(before)?)?;
    (!tail.is_empty()).then(|| (at + before..at + own, tail))
}

/// Applies the letter case of `question` to such names in `message`.
#[cold]
#[inline(never)]
pub(crate) fn follow(question: &[u8], message: &mut [u8]) {
    let qname = question.get(..question.len().saturating_sub(4)).unwrap_or_default();
    if !qname.iter().any(u8::is_ascii_uppercase) {
        return;
    }
    let records: usize = [6, 8, 10].into_iter().filter_map(|at| u16_at(message, at)).map(usize::from).sum();
    let mut at = HEADER + question.len();
    for _ in 0..records {
        let Some(record) = Record::read(message, at, Section::Answer) else { return };
        // The owner, and at most two names in RDATA.
        let mut places = [None; 3];
        places.iter_mut().zip(record.names(message)).for_each(|(place, at)| *place = Some(at));
        for at in places.into_iter().flatten() {
            let Some((range, spelled)) = shared(message, at, qname) else { continue };
            if let Some(labels) = message.get_mut(range) {
                labels.copy_from_slice(spelled);
            }
        }
        at = record.end;
    }
}

/// Returns the size in bytes of the labels at `at`, up to the root label or a pointer.
fn written_out(message: &[u8], at: usize) -> usize {
    let mut end = at;
    while let Some(length @ 1..=63) = message.get(end).copied() {
        end += 1 + usize::from(length);
    }
    end - at
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the range of the name at the end of a message that is shared with the question, and its spelling there.
    fn shared_with(qname: &[u8], name: &[u8]) -> Option<(Range<usize>, Vec<u8>)> {
        let message = [&[0; HEADER][..], qname, name].concat();
        let (range, spelled) = shared(&message, HEADER + qname.len(), qname)?;
        let start = HEADER + qname.len();
        Some((range.start - start..range.end - start, spelled.to_vec()))
    }

    #[test]
    fn labels_that_are_shared() {
        let qname = b"\x01A\x01B\x01c\x00";
        for (name, expected) in [
            (&b"\x01a\x01b\x01c\x00"[..], Some((0..6, &b"\x01A\x01B\x01c"[..]))),
            (b"\x01x\x01b\x01C\x00", Some((2..6, b"\x01B\x01c"))),
            // The end is a pointer to the question; only the labels before it are uncompressed.
            (b"\x01b\xc0\x10", Some((0..2, b"\x01B"))),
            (b"\x01x\xc0\x0e", None),
            (b"\xc0\x0c", None),
            (b"\x01x\x00", None),
            (b"\x00", None),
            (b"\x01a\xc0\xff", None),
            (b"\x09a", None),
        ] {
            let expected = expected.map(|(range, spelled)| (range, spelled.to_vec()));
            assert_eq!(shared_with(qname, name), expected, "{name:?}");
        }
    }
}
