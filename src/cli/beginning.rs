//! What a process of `nodens serve` begins with, and what its supervisor holds of that for a successor.

use std::path::Path;
use std::sync::Arc;

use super::config_file::{Source, Unusable};
use crate::config::Config;
use crate::supervisor::link::{Configs, Link};

/// What a process begins with.
pub(super) struct Beginning {
    pub(super) config: Config,
    /// What the keys that only a start reads are from, packed.
    pub(super) start: Vec<u8>,
    /// What all others are from.
    pub(super) in_force: Source,
    /// The keys that only a start reads and that differ between the two.
    pub(super) waiting: Vec<&'static str>,
}

/// What the supervisor holds, if there is one.
pub(super) struct Held {
    pub(super) link: Option<Link>,
    /// See [`Beginning::start`].
    start: Arc<Vec<u8>>,
}

impl Held {
    pub(super) fn new(link: Option<Link>, start: Vec<u8>) -> Self {
        Self { link, start: Arc::new(start) }
    }

    /// The supervisor shall hold this as what is in force.
    pub(super) fn hold(&self, in_force: &Source) {
        let Some(link) = &self.link else { return };
        let in_force = Arc::new(in_force.pack());
        let start = if in_force == self.start { Arc::default() } else { Arc::clone(&self.start) };
        link.hold_configs(Configs { start, in_force });
    }
}

/// Why there is no configuration.
pub(super) enum Bad<'s> {
    File(&'s Path, Unusable),
    Builtin(String),
}

impl Bad<'_> {
    /// Each complaint, as a line.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::File(file, unusable) => unusable.lines(file),
            Self::Builtin(error) => vec![error.clone()],
        }
    }
}
