//! Configuration that a process of `nodens serve` starts with, and the copy that its supervisor keeps for a successor.

use std::path::Path;
use std::sync::Arc;

use super::config_file::{ConfigSource, Unusable};
use crate::config::Config;
use crate::supervisor::link::{Configs, SupervisorChannel};

/// Configuration that a process starts with.
pub(super) struct StartConfig {
    pub(super) config: Config,
    /// Source of the keys that only a start reads, packed.
    pub(super) start: Vec<u8>,
    /// Source of all other keys.
    pub(super) in_force: ConfigSource,
    /// Keys that only a start reads and that differ between the two.
    pub(super) needs_restart: Vec<&'static str>,
}

/// Copy of the configuration in the supervisor, if there is one.
pub(super) struct SupervisorCopy {
    pub(super) link: Option<SupervisorChannel>,
    start: Arc<Vec<u8>>,
}

impl SupervisorCopy {
    pub(super) fn new(link: Option<SupervisorChannel>, start: Vec<u8>) -> Self {
        Self { link, start: Arc::new(start) }
    }

    /// Sends the configuration in force to the supervisor.
    pub(super) fn update(&self, in_force: &ConfigSource) {
        let Some(link) = &self.link else { return };
        let in_force = Arc::new(in_force.pack());
        let start = if in_force == self.start { Arc::default() } else { Arc::clone(&self.start) };
        link.hold_configs(Configs { start, in_force });
    }
}

/// Reason why there is no configuration.
pub(super) enum ConfigProblem<'s> {
    File(&'s Path, Unusable),
    Builtin(String),
}

impl ConfigProblem<'_> {
    /// Returns the errors, one a line.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::File(file, unusable) => unusable.lines(file),
            Self::Builtin(error) => vec![error.clone()],
        }
    }
}
