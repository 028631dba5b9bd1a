//! The modes of measurement.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Cached names over UDP, as many as the server answers
    Hits,
    /// The same with an OPT record, as most clients send
    HitsEdns,
    /// Cached names over 8 pipelined TCP connections
    Tcp,
    /// Cached names over UDP at --rate, for latency
    Latency,
    /// New names only, as many as the server fetches from the upstream
    Misses,
}

impl Mode {
    /// All modes, in the order in which they are measured. Misses are last, because they fill the caches.
    pub const ALL: [Self; 5] = [Self::Hits, Self::HitsEdns, Self::Tcp, Self::Latency, Self::Misses];

    /// Returns the name of the mode in tables and charts.
    pub fn title(self) -> &'static str {
        match self {
            Self::Hits => "hits",
            Self::HitsEdns => "hits, EDNS",
            Self::Tcp => "hits, TCP",
            Self::Latency => "hits, moderate rate",
            Self::Misses => "misses",
        }
    }
}
