//! Start of the log on stderr.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::log::{self, Lines};

/// Environment variable that sets the log level.
const LOG_VARIABLE: &str = "NODENS_LOG";

/// Format of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    Auto,
    Text,
    Json,
}

impl LogFormat {
    /// Starts logging. The error is an invalid level or a missing thread.
    pub(super) fn start(self) -> Result<(), String> {
        let level = match std::env::var(LOG_VARIABLE) {
            Ok(text) => text
                .parse::<LevelFilter>()
                .map_err(|_| format!("{LOG_VARIABLE}={text:?} is no level: use error, warn, info, debug or off"))?,
            Err(_) => LevelFilter::INFO,
        };
        // The resolver library logs each try to resolve an upstream's name; nodens logs the outcome.
        let library = level.min(LevelFilter::ERROR);
        let filter = Targets::new()
            .with_default(level)
            .with_target("hickory_resolver", library)
            .with_target("hickory_net", library);
        let json = match self {
            Self::Auto => !io::stderr().is_terminal(),
            Self::Text => false,
            Self::Json => true,
        };
        log::start().map_err(|error| format!("no thread for the log: {error}"))?;
        let lines = tracing_subscriber::fmt::layer().with_target(false).with_writer(|| Lines);
        let lines = match json {
            true => lines.json().flatten_event(true).boxed(),
            false => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        };
        // A program that uses the library may have a subscriber of its own.
        let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
        Ok(())
    }
}
