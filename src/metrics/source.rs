//! Sources of responses.

/// Source of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The cache: an entry that has not expired, or a cached failure.
    Hit,
    /// The cache: an expired entry, because upstreams failed (RFC 8767).
    Stale,
    /// nodens itself: static records, special-use names, errors in the query.
    Local,
    /// An upstream, queried for this query or an identical one.
    Upstream,
    /// None: the client is not allowed to query.
    Refused,
}

impl Source {
    /// All sources, by number.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Stale, Self::Local, Self::Upstream, Self::Refused];

    /// Returns the value of the label `source` in metrics.
    pub fn label(self) -> &'static str {
        SOURCES[self as usize]
    }
}

/// Labels of [`Source`], by number.
const SOURCES: [&str; Source::ALL.len()] = ["hit", "stale", "local", "upstream", "refused"];
