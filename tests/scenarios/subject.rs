//! The server that a scenario is played on: nodens in this thread, or another server as a process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nodens::app::Running;
use nodens::bench::failover::process::Process;
use nodens::bench::failover::server::TestedServer;

use super::script::{Step, time};

/// Environment variable that names another server.
const VARIABLE: &str = "SCENARIO_PEER";

/// Longest duration of a scenario on the machine's clock.
const LONGEST: Duration = Duration::from_secs(120);

/// Server that the clients of a scenario query.
pub(crate) enum Subject {
    /// nodens.
    Nodens(Box<Running>),
    /// Another server.
    Peer(Process),
}

impl Subject {
    /// Starts another server as a forwarder to these upstreams.
    pub(crate) async fn start(server: TestedServer, upstreams: &[SocketAddr]) -> Self {
        let program = server.find().unwrap_or_else(|error| panic!("{}: {error}", server.program()));
        let started = Process::start(server, &program, IpAddr::V4(Ipv4Addr::LOCALHOST), upstreams).await;
        Self::Peer(started.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Returns the address that takes queries.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Nodens(running) => running.listen_addresses()[0],
            Self::Peer(process) => process.address(),
        }
    }

    /// Returns nodens; panics for another server, which cannot be reloaded.
    pub(crate) fn nodens(&self) -> &Running {
        match self {
            Self::Nodens(running) => running,
            Self::Peer(_) => panic!("only nodens reloads"),
        }
    }
}

/// Returns the server that the environment names in place of nodens.
pub(crate) fn peer() -> Option<TestedServer> {
    let name = std::env::var(VARIABLE).ok()?;
    let known = || TestedServer::ALL[1..].iter().map(|server| server.name()).collect::<Vec<_>>().join(", ");
    Some(TestedServer::named(&name).unwrap_or_else(|| panic!("{VARIABLE}={name}: expected one of {}", known())))
}

/// Returns the reason why a scenario cannot be played on another server, if there is one.
pub(crate) fn unfit(steps: &[Step]) -> Option<String> {
    let word = |step: &Step, at: usize| step.words.get(at).cloned().unwrap_or_default();
    let own = |step: &&Step| ["config", "reload", "leads-back"].contains(&word(step, 0).as_str());
    if let Some(step) = steps.iter().find(own) {
        return Some(format!("line {}: `{}` is for nodens alone", step.line, word(step, 0)));
    }
    let waits = steps.iter().filter(|step| word(step, 0) == "advance").map(|step| time(&word(step, 1)));
    let takes: Duration = waits.sum();
    (takes > LONGEST).then(|| format!("it takes {} s in real time", takes.as_secs()))
}
