//! `nodens serve`: serves until SIGTERM or SIGINT, and reloads the configuration on SIGHUP or when the file changes.
//!
//! The started process is the supervisor, see [`crate::supervisor`]. It starts this program again as the worker, which serves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use clap::Args;
use tokio::runtime::Builder;

use super::config_file::{self, ConfigSource, Unusable};
use super::hosts_files::{self, FileStamp};
use super::log_format::LogFormat;
use super::outcome::CommandOutcome;
use super::ready::ReadySocket;
use super::service_manager::ServiceManager;
use super::signals::Signals;
use super::start_config::{ConfigProblem, StartConfig, SupervisorCopy};
use crate::app::Running;
use crate::app::descriptors::raise_limit;
use crate::app::instance::Instance;
use crate::config::Config;
use crate::config::address::{DNS_PORT, Listen};
use crate::config::builtin::builtin;
use crate::handover::channel::Channel;
use crate::log;
use crate::metrics::events::EventKind;
use crate::node::ipv6;
use crate::server::Phase;
use crate::supervisor;
use crate::supervisor::link::{Configs, Inherited, SupervisorChannel};
use crate::upstream::server_status::wall_clock;

/// Interval between checks of the file. A ConfigMap's file is a link that is replaced, which file events show unreliably.
const WATCH: Duration = Duration::from_secs(2);
/// Niceness of the thread that reads, builds and frees configurations while the workers run: queries have priority where
/// CPUs are few.
const GIVES_WAY: i32 = 10;
/// One warning for each process.
static NO_IPV6: Once = Once::new();
/// Source of the upstreams of the built-in configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Serve DNS over UDP and TCP.
///
/// Without --config, nodens listens on 127.0.0.1:5300 and [::1]:5300 for this host and forwards all queries to the servers
/// in /etc/resolv.conf; metrics are on 127.0.0.1:9053.
///
/// On SIGHUP, or when the file changes, the new configuration is applied atomically; an invalid one changes nothing and the
/// log says why. On SIGTERM or SIGINT, nodens answers the queries in flight for at most 5 s and exits with 0. Exit codes: 78
/// the configuration is wrong; 64 the command line is wrong; 1 the file cannot be read or an address cannot be bound.
///
/// nodens runs as two processes: a worker that serves, and a supervisor that holds the sockets and replaces a worker that
/// dies. With [handover] in the configuration, a second `nodens serve` takes over the sockets and the cache of the running
/// one without losing a query (docs/guides/upgrades.md).
///
/// The environment variable NODENS_LOG sets the log level: error, warn, info (the default), debug or off.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the text of --help, where brackets are no links")]
pub(super) struct Serve {
    /// Configuration file; see `nodens check`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// More addresses to listen on, besides server.listen: those that differ from node to node. The default port is 53
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = listen_address)]
    listen: Vec<SocketAddr>,

    /// Format of the log on stderr; auto is text on a terminal and JSON otherwise
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log: LogFormat,

    /// Serve in this process, for service managers that restart it
    #[arg(long)]
    no_supervisor: bool,

    /// This process is the worker of a supervisor
    #[arg(long, hide = true, conflicts_with = "no_supervisor")]
    worker: bool,
}

const EXAMPLES: &str = "\
Examples:
  nodens serve                                 a cache in front of /etc/resolv.conf, on port 5300
  dig @127.0.0.1 -p 5300 example.com           ask it
  nodens serve --config /etc/nodens/nodens.toml
  nodens serve --config /etc/nodens/nodens.toml --listen 10.0.0.7,fd00::7
  nodens serve --no-supervisor                 one process, for a service manager that restarts it
  NODENS_LOG=debug nodens serve --log text     also tell of each query that got no answer";

impl Serve {
    /// Runs the server until a signal stops it.
    pub(super) fn run(&self) -> CommandOutcome {
        let outcome = self.run_logged();
        log::flush();
        outcome
    }

    fn run_logged(&self) -> CommandOutcome {
        if let Err(error) = self.log.start() {
            return fail(&error, CommandOutcome::BadUsage);
        }
        if self.worker {
            supervisor::set_process_name();
        }
        // The supervisor holds copies of all listeners, and the worker inherits its limit.
        raise_limit();
        if self.no_supervisor || self.worker {
            return self.serve();
        }
        match supervisor::run() {
            Ok(code) => CommandOutcome::of_code(code),
            Err(error) => fail(&error, CommandOutcome::Failed),
        }
    }

    /// Serves in this process.
    fn serve(&self) -> CommandOutcome {
        // Before anything else starts: from here on no signal is lost, however early it arrives.
        let minder = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let signals = runtime.block_on(async { Signals::new() })?;
            supervisor::hear_signals()?;
            Ok((runtime, signals))
        });
        let (runtime, signals) = match minder {
            Ok(minder) => minder,
            Err(error) => return fail(&error, CommandOutcome::Failed),
        };
        let link =
            self.worker.then(|| SupervisorChannel::open(Channel::of(supervisor::link_from_stdin()?))).transpose();
        let (link, given) = match link {
            Ok(link) => link.unzip(),
            Err(error) => {
                return fail(&format!("--worker is for the supervisor alone: {error}"), CommandOutcome::BadUsage);
            }
        };
        let given = given.unwrap_or_default();
        let replaces = given.replaces.clone();
        let StartConfig { config, start, in_force, needs_restart } = match self.begin(&given) {
            Ok(start) => start,
            Err(ConfigProblem::File(file, unusable)) => {
                unusable.lines(file).iter().for_each(|line| log::say(line));
                return unusable.outcome();
            }
            Err(ConfigProblem::Builtin(error)) => return fail(&error, CommandOutcome::BadConfig),
        };
        self.log_warnings(&config);
        // Before this process opens sockets: the supervisor gets configurations and sockets without delay.
        let copy = SupervisorCopy::new(link.clone(), start);
        copy.update(&in_force);
        let place = match Instance::take(config, given, link.clone()) {
            Ok(place) => place,
            Err(error) => return fail(&error, CommandOutcome::Failed),
        };
        let running = place.running();
        for address in running.listen_addresses() {
            tracing::info!(%address, "listening on UDP and TCP");
        }
        for address in running.admin_addresses() {
            tracing::info!(%address, "serving admin pages");
        }
        for address in running.metrics_addresses() {
            tracing::info!(%address, "serving metrics and health only");
        }
        for address in running.report_addresses() {
            tracing::info!(%address, "serving client reports at /v1/me");
        }
        let (version, workers) = (env!("CARGO_PKG_VERSION"), running.workers());
        match running.host().phase() {
            Phase::Resting => tracing::info!(version, workers, "nodens on standby: another instance serves"),
            _ => tracing::info!(version, workers, "nodens serves"),
        }
        if replaces.restarts > 0 {
            let took = wall_clock().saturating_sub(replaces.at);
            running.record_event(
                EventKind::WorkerReplaced,
                &format!("the last one ended by {}, {took} ms ago", replaces.ended),
            );
        }
        if !needs_restart.is_empty() {
            tracing::warn!("configuration keys that still wait for a restart: {}", needs_restart.join(", "));
        }
        let _ready = ReadySocket::bind();
        let manager = ServiceManager::ready(running.responsiveness());
        let end = runtime.block_on(self.handle_signals(running, &copy, signals, in_force));
        if let StopReason::Failed(what) = end {
            tracing::error!("{what} failed: exiting so that the supervisor restarts the worker");
            // Waiting for the other parts would only delay the next worker.
            std::mem::forget(place);
            return CommandOutcome::Failed;
        }
        manager.stopping();
        let left = place.leave();
        tracing::info!(unanswered = left, "nodens stopped");
        CommandOutcome::Good
    }

    /// Handles signals and changes of the files until the process is to stop.
    async fn handle_signals(
        &self,
        running: &Running,
        copy: &SupervisorCopy,
        mut signals: Signals,
        in_force: ConfigSource,
    ) -> StopReason {
        let broken = async {
            match &copy.link {
                Some(link) => link.broken().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(broken);
        let hosts_paths = || running.resolver().snapshot.load().config.hosts.files.clone();
        // The last content read from the configuration file, and the state of the hosts files before they were read.
        let (text, mut seen_hosts) = in_force.into_watched();
        let mut seen = Some(text);
        // On Linux, this affects the calling thread only. If it is refused, reloads run at the priority of the workers.
        let _ = rustix::process::nice(GIVES_WAY);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return StopReason::Told,
                _ = signals.interrupt.recv() => return StopReason::Told,
                what = running.failed() => return StopReason::Failed(what),
                () = &mut broken => {
                    tracing::warn!("supervisor exited");
                    return StopReason::Told;
                }
                _ = signals.hang_up.recv() => {
                    let now = self.read();
                    seen = now.as_ref().ok().cloned();
                    seen_hosts = self.reload(running, copy, now).unwrap_or(seen_hosts);
                }
                () = tokio::time::sleep(WATCH), if self.config.is_some() => {
                    let now = self.read();
                    let hosts = hosts_files::stamps(&hosts_paths());
                    // A file that is being replaced may be missing for a moment.
                    if now.as_ref().is_ok_and(|now| hosts != seen_hosts || seen.as_ref() != Some(now)) {
                        seen = now.as_ref().ok().cloned();
                        seen_hosts = self.reload(running, copy, now).unwrap_or(hosts);
                    }
                }
            }
        }
    }

    /// Returns the configuration to start with: that of the file, or for the successor of a worker the one last in force.
    fn begin(&self, given: &Inherited) -> Result<StartConfig, ConfigProblem<'_>> {
        let Configs { start, in_force } = &given.configs;
        let Some(in_force) = ConfigSource::unpack(in_force) else { return self.begin_from_file() };
        if given.replaces.from_file {
            match self.begin_from_file() {
                Ok(start) => {
                    tracing::warn!("starting with the configuration file: the previous worker never served");
                    return Ok(start);
                }
                Err(bad) => {
                    bad.lines().iter().for_each(|line| tracing::error!("{line}"));
                    tracing::warn!("the configuration file is invalid: starting with the configuration last in force");
                }
            }
        }
        let start = ConfigSource::unpack(start).unwrap_or_else(|| in_force.clone());
        let mut config = self.config(&in_force)?;
        let needs_restart = config.keep_start_only(&self.config(&start)?);
        Ok(StartConfig { config, start: start.pack(), in_force, needs_restart })
    }

    fn begin_from_file(&self) -> Result<StartConfig, ConfigProblem<'_>> {
        let in_force = ConfigSource::of(self.read()?);
        Ok(StartConfig { config: self.config(&in_force)?, start: in_force.pack(), in_force, needs_restart: Vec::new() })
    }

    /// Reads the configuration file, or resolv.conf if there is none.
    fn read(&self) -> Result<Vec<u8>, ConfigProblem<'_>> {
        match &self.config {
            Some(file) => {
                config_file::read(file).map_err(|error| ConfigProblem::File(file, Unusable::Unreadable(error)))
            }
            None => config_file::read(Path::new(RESOLV_CONF)).map_err(|error| {
                ConfigProblem::Builtin(format!(
                    "cannot read {RESOLV_CONF}, which names the upstreams when there is no --config: {error}"
                ))
            }),
        }
    }

    /// Parses a configuration and adds the addresses of `--listen`.
    fn config(&self, source: &ConfigSource) -> Result<Config, ConfigProblem<'_>> {
        let mut config = match &self.config {
            Some(file) => source.parse().map_err(|unusable| ConfigProblem::File(file, unusable))?,
            None => {
                let text = String::from_utf8_lossy(&source.text);
                builtin(&text, source.local()).map_err(|error| ConfigProblem::Builtin(error.to_string()))?
            }
        };
        let left_out = ipv6::leave_out(&mut config);
        if !left_out.is_empty() {
            // The configuration is read again and again; the node stays as it is.
            NO_IPV6.call_once(|| {
                let addresses = left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                tracing::warn!("IPv6 is switched off on this node: serving without {addresses}");
            });
        }
        for address in &self.listen {
            if !config.server.listen.contains(address) {
                config.server.listen.push(*address);
            }
        }
        Ok(config)
    }

    /// Logs the warnings of a configuration and the faults of its hosts files.
    fn log_warnings(&self, config: &Config) {
        let file = self.config.as_deref().unwrap_or(Path::new(RESOLV_CONF)).display();
        config.warnings.iter().for_each(|warning| tracing::warn!("{file}:{warning}"));
        config.hosts.faults.iter().for_each(|fault| tracing::warn!("hosts file: {fault}"));
    }

    /// Applies a configuration; returns the stamps of its hosts files. A configuration with mistakes changes nothing.
    fn reload(
        &self,
        running: &Running,
        copy: &SupervisorCopy,
        text: Result<Vec<u8>, ConfigProblem<'_>>,
    ) -> Option<Vec<FileStamp>> {
        running.wait_for_memory();
        let read = text.map(ConfigSource::of).and_then(|source| Ok((self.config(&source)?, source)));
        match read {
            Ok((config, source)) => {
                self.log_warnings(&config);
                let needs_restart = running.apply_config(config);
                // Before the log line: it promises that a worker started after the death of this process has this configuration.
                copy.update(&source);
                running.tell_reloaded(&needs_restart);
                Some(source.stamps().to_vec())
            }
            Err(bad) => {
                let lines = bad.lines();
                let (first, others) = lines.split_first().map_or(("", &[][..]), |(first, others)| (first, others));
                running.reload_rejected(first);
                // The event has the first mistake, the log has all of them.
                for line in others {
                    tracing::error!("configuration: {line}");
                }
                None
            }
        }
    }
}

/// Parses an address to listen on, in the syntax of the configuration file.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    Listen::<DNS_PORT>::try_from(text.to_owned()).map(|listen| listen.0)
}

enum StopReason {
    /// A signal, or the exit of the supervisor.
    Told,
    /// Failure of the named part.
    Failed(&'static str),
}

fn fail(error: &dyn std::fmt::Display, outcome: CommandOutcome) -> CommandOutcome {
    log::say(&format!("nodens: {error}"));
    outcome
}
