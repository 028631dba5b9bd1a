//! A stored reply fitted to one client's query: id, flags, letter case, aged TTLs, OPT, size.

use super::make::{self, OPT_SIZE, Writer};
use super::query::Query;
use super::{HEADER, flag, name, u16_at};

/// A reply as the cache keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The message without OPT, its question in lower case.
    pub wire: &'a [u8],
    /// The offset of each TTL in `wire`, as big-endian pairs of bytes.
    pub ttls: &'a [u8],
    /// Extended errors that came with it, as whole options.
    pub extended_errors: &'a [u8],
    /// The full response code.
    pub rcode: u16,
    /// Whether a trusted upstream vouched for it.
    pub authentic: bool,
}

/// How old the reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// This many seconds, to be taken off each TTL.
    Seconds(u32),
    /// Past its time: each TTL becomes this many seconds (RFC 8767 section 4).
    Stale(u32),
}

/// Writes `kept` as the reply to `query` into `out`, whose length is the most that the client can take.
///
/// What does not fit goes by worth: first the additional section, then the authority section of an answer, and only
/// when the answers themselves are too many are they cut between records, with TC set. Room for OPT is always kept.
/// `options` go into OPT after the reply's own extended errors. Returns the length; zero if not even the question fits.
#[inline]
pub fn fit(kept: Kept<'_>, query: &Query<'_>, age: Age, options: &[u8], out: &mut [u8]) -> usize {
    let question = query.question();
    let opt_size = query.edns.map_or(0, |_| OPT_SIZE + kept.extended_errors.len() + options.len());
    let whole = kept.wire.len() + opt_size <= out.len();
    let cut = if whole {
        Cut { len: kept.wire.len(), counts: None, truncated: false }
    } else {
        shorten(kept.wire, query.question_end, out.len().saturating_sub(opt_size))
    };
    let (Some(body), true) = (kept.wire.get(..cut.len), cut.len + opt_size <= out.len()) else { return 0 };
    out[..cut.len].copy_from_slice(body);

    let stored_flags = u16_at(kept.wire, 2).unwrap_or_default();
    let mut flags = make::reply_flags(query.flags, kept.rcode) | (stored_flags & flag::Z);
    if kept.authentic && query.wants_ad() {
        flags |= flag::AD;
    }
    if cut.truncated {
        flags |= flag::TC;
    }
    out[..2].copy_from_slice(&query.id.to_be_bytes());
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    if let Some(counts) = cut.counts {
        out[6..HEADER].copy_from_slice(&counts);
    }
    if let Some(place) = out.get_mut(HEADER..HEADER + question.len()) {
        place.copy_from_slice(question);
    }
    for pair in kept.ttls.chunks_exact(2) {
        let at = usize::from(u16::from_be_bytes([pair[0], pair[1]]));
        let Some(ttl) = out.get_mut(at..at + 4).filter(|_| at + 4 <= cut.len) else { break };
        let aged = match age {
            Age::Seconds(age) => u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]).saturating_sub(age),
            Age::Stale(ttl) => ttl,
        };
        ttl.copy_from_slice(&aged.to_be_bytes());
    }
    let Some(edns) = query.edns else { return cut.len };
    let additional = u16_at(out, 10).unwrap_or_default() + 1;
    out[10..12].copy_from_slice(&additional.to_be_bytes());
    let mut writer = Writer::new(&mut out[cut.len..]);
    if options.is_empty() {
        make::opt(&mut writer, kept.rcode, edns.dnssec_ok, kept.extended_errors);
    } else {
        make::opt(&mut writer, kept.rcode, edns.dnssec_ok, &[kept.extended_errors, options].concat());
    }
    writer.finish().map_or(0, |written| cut.len + written)
}

/// How much of a message is kept.
struct Cut {
    /// Its first bytes.
    len: usize,
    /// The record counts of its three sections, where they differ from the stored ones.
    counts: Option<[u8; 6]>,
    /// Whether an answer is missing.
    truncated: bool,
}

/// Leaves out what a reply of at most `room` bytes cannot hold.
#[cold]
fn shorten(wire: &[u8], question_end: usize, room: usize) -> Cut {
    let stored = [6, 8, 10].map(|at| u16_at(wire, at).unwrap_or_default());
    let mut counts = [0u16; 3];
    let mut at = question_end;
    'sections: for (section, stored) in stored.into_iter().enumerate() {
        let before = (at, counts);
        for _ in 0..stored {
            let end = name::skip(wire, at)
                .and_then(|fixed| Some(fixed + 10 + usize::from(u16_at(wire, fixed + 8)?)))
                .filter(|end| *end <= room.min(wire.len()));
            let Some(end) = end else {
                // Answers are kept one by one, the other sections whole or not at all.
                if section > 0 {
                    (at, counts) = before;
                }
                break 'sections;
            };
            at = end;
            counts[section] += 1;
        }
    }
    // A negative answer is its authority section.
    let truncated = counts[0] < stored[0] || (stored[0] == 0 && counts[1] < stored[1]);
    let [answers, authorities, additionals] = counts.map(u16::to_be_bytes);
    let counts = [answers[0], answers[1], authorities[0], authorities[1], additionals[0], additionals[1]];
    Cut { len: at, counts: Some(counts), truncated }
}
