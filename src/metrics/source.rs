//! Where responses come from.

/// Where a response came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The cache, within its time (or a remembered failure).
    Hit,
    /// The cache, past its time, because upstreams failed (RFC 8767).
    Stale,
    /// nodens itself: static records, special-use names, errors in the query.
    Local,
    /// An upstream, asked for this query or for an identical one.
    Upstream,
    /// Nowhere: the client may not ask.
    Refused,
}

impl Source {
    /// All of them, by their numbers.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Stale, Self::Local, Self::Upstream, Self::Refused];

    /// The value of the label `source` in metrics.
    pub fn label(self) -> &'static str {
        SOURCES[self as usize]
    }
}

/// The labels of [`Source`], by its number.
const SOURCES: [&str; Source::ALL.len()] = ["hit", "stale", "local", "upstream", "refused"];
