//! What is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Names that are known, over UDP, as many as the server answers
    Hits,
    /// The same with an OPT record, as most clients send
    HitsEdns,
    /// Names that are known, over 8 pipelined TCP connections
    Tcp,
    /// Names that are known, over UDP at --rate, for latency
    Latency,
    /// Every name a new one, as many as the server fetches from the upstream
    Misses,
}

impl Mode {
    /// All, in the order in which they are measured: misses last, as they fill the caches.
    pub const ALL: [Self; 5] = [Self::Hits, Self::HitsEdns, Self::Tcp, Self::Latency, Self::Misses];

    /// What tables and charts call it.
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
