//! Sources of responses.

/// Source of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerSource {
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

impl AnswerSource {
    /// All sources, by number.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Stale, Self::Local, Self::Upstream, Self::Refused];

    /// Returns the value of the label `source` in metrics.
    pub fn label(self) -> &'static str {
        SOURCES[self as usize]
    }
}

/// Labels of [`AnswerSource`], by number.
const SOURCES: [&str; AnswerSource::ALL.len()] = ["hit", "stale", "local", "upstream", "refused"];
