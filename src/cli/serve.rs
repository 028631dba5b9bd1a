//! `nodens serve`: serves until SIGTERM or SIGINT, takes a new configuration on SIGHUP or when the file changes.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::config_file::load;
use super::{Outcome, own_addresses};
use crate::app::{self, Running};
use crate::config::Config;
use crate::config::builtin::builtin;

/// How often the file is looked at. A ConfigMap's file is a link that is swapped, which file events do not show well.
const WATCH: Duration = Duration::from_secs(2);
/// Where the embedded default finds its upstreams.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The environment variable that sets what is logged.
const LOG_VARIABLE: &str = "NODENS_LOG";

/// Serve DNS over UDP and TCP.
///
/// Without --config: on 127.0.0.1:5300 and [::1]:5300, for this host, everything to the servers in /etc/resolv.conf;
/// metrics on 127.0.0.1:9353.
///
/// SIGHUP or a changed file: the new configuration is taken in one swap; a bad one changes nothing and says why. SIGTERM
/// or SIGINT: answers what is in flight, at most 5 s, and exits 0. Exit codes: 78 the configuration is wrong, 64 the
/// command line is, 1 the file cannot be read or an address cannot be listened on.
///
/// The environment variable NODENS_LOG sets what is logged (error, warn, info, debug or off); info by default.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    /// The TOML file; see `nodens check`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How the log on stderr looks: auto is text on a terminal, JSON otherwise
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Auto,
    Text,
    Json,
}

const EXAMPLES: &str = "\
Examples:
  nodens serve                                 a cache in front of /etc/resolv.conf, on port 5300
  dig @127.0.0.1 -p 5300 example.com           ask it
  nodens serve --config /etc/nodens/nodens.toml
  NODENS_LOG=debug nodens serve --log text     also tell of each query that got no answer";

impl Serve {
    /// Serves until a signal ends it.
    pub(super) fn run(&self) -> Outcome {
        if let Err(error) = self.log() {
            return fail(&error, Outcome::BadUsage);
        }
        // Before anything is started: from here on a signal is heard, however early it comes.
        let minder = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let signals = runtime.block_on(async { Signals::new() })?;
            Ok((runtime, signals))
        });
        let (runtime, signals) = match minder {
            Ok(minder) => minder,
            Err(error) => return fail(&error, Outcome::Failed),
        };
        // Before it is loaded: a change between the two is then seen.
        let seen = self.contents();
        let config = match &self.config {
            Some(file) => match load(file) {
                Ok(config) => config,
                Err(unusable) => return unusable.complain(file),
            },
            None => match default_config() {
                Ok(config) => config,
                Err(error) => return fail(&error, Outcome::BadConfig),
            },
        };
        let running = match app::start(config) {
            Ok(running) => running,
            Err(error) => return fail(&error, Outcome::Failed),
        };
        for address in running.listen_addresses() {
            tracing::info!(%address, "listening on UDP and TCP");
        }
        if let Some(address) = running.admin_address() {
            tracing::info!(%address, "admin pages: / lists them");
        }
        for address in running.report_addresses() {
            tracing::info!(%address, "each client's own report: /v1/me");
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = running.workers(), "nodens serves");
        runtime.block_on(self.mind(&running, signals, seen));
        let left = running.stop();
        tracing::info!(unanswered = left, "nodens stopped");
        Outcome::Good
    }

    /// Minds signals and the file, until it is time to stop. `seen` is what the file held when it was last looked at.
    async fn mind(&self, running: &Running, mut signals: Signals, mut seen: Option<Vec<u8>>) {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                _ = signals.hang_up.recv() => {
                    seen = self.contents();
                    self.reload(running);
                }
                () = tokio::time::sleep(WATCH), if self.config.is_some() => {
                    let now = self.contents();
                    // A file that is being replaced may be missing for a moment.
                    if now.is_some() && now != seen {
                        seen = now;
                        self.reload(running);
                    }
                }
            }
        }
    }

    /// What the file holds, if there is one and it can be read.
    fn contents(&self) -> Option<Vec<u8>> {
        self.config.as_ref().and_then(|file| fs::read(file).ok())
    }

    fn reload(&self, running: &Running) {
        let config = match &self.config {
            Some(file) => load(file).map_err(|unusable| unusable.lines(file)),
            None => default_config().map_err(|error| vec![error]),
        };
        match config {
            Ok(config) => drop(running.reload(config)),
            Err(lines) => {
                let (first, others) = lines.split_first().map_or(("", &[][..]), |(first, others)| (first, others));
                running.reload_rejected(first);
                // One event for one file, but the log has every mistake.
                for line in others {
                    tracing::error!("and another mistake: {line}");
                }
            }
        }
    }

    /// Begins to log. The error says what is wrong with the level that was asked for.
    fn log(&self) -> Result<(), String> {
        let level = match std::env::var(LOG_VARIABLE) {
            Ok(text) => text
                .parse::<LevelFilter>()
                .map_err(|_| format!("{LOG_VARIABLE}={text:?} is no level: use error, warn, info, debug or off"))?,
            Err(_) => LevelFilter::INFO,
        };
        // The libraries that resolve upstreams' names and watch Kubernetes tell of each try; what comes of them is told here.
        let filter = EnvFilter::new(format!("{level},hickory_resolver=error,hickory_net=error,kube_client=off"));
        let json = match self.log {
            LogFormat::Auto => !io::stderr().is_terminal(),
            LogFormat::Text => false,
            LogFormat::Json => true,
        };
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        // Someone who uses the library may have a log of their own.
        let _ = match json {
            true => builder.json().flatten_event(true).with_target(false).try_init(),
            false => builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        };
        Ok(())
    }
}

/// The signals that are heard.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// The embedded default: a cache in front of the system's own servers.
fn default_config() -> Result<Config, String> {
    let text = fs::read_to_string(Path::new(RESOLV_CONF)).map_err(|error| {
        format!("cannot read {RESOLV_CONF}, which names the upstreams when there is no --config: {error}")
    })?;
    builtin(&text, &own_addresses()).map_err(|error| error.to_string())
}

fn fail(error: &dyn std::fmt::Display, outcome: Outcome) -> Outcome {
    let _ = writeln!(io::stderr(), "nodens: {error}"); // if nobody listens, the exit code still tells
    outcome
}
