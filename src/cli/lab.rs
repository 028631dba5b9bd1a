//! `nodens lab`: a hybrid network on loopback with nodens in front of it, for experiments and for a guided tour.

use std::io::{self, BufRead, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use clap::Args;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::outcome::CommandOutcome;
use crate::lab::console::{CommandResult, Console, HELP};
use crate::lab::front::Front;
use crate::lab::tour::tour;
use crate::lab::{HORIZONS, LabNetwork, STATIC_RECORD};

/// Try nodens without a cluster: a small hybrid network on loopback with scripted upstreams, and nodens in front of it.
///
/// Nothing leaves this machine and no privilege is needed. Exit codes: 0 success; 1 a step of the tour failed or a port is in
/// use; 64 the command line is wrong.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Lab {
    /// Show what nodens does, step by step, each checked; about ten seconds
    #[arg(long)]
    tour: bool,
    /// Port on 127.0.0.1 to listen on, 0 for any free one [default: 5300; with --tour: 0]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Port on 127.0.0.1 of the metrics and the status page, 0 for any free one [default: none]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

const EXAMPLES: &str = "\
Examples:
  nodens lab --tour                       the guided tour
  nodens lab                              then, elsewhere: dig @127.0.0.1 -p 5300 pypi.example.org
  nodens lab --admin-port 9053            with the status page";

/// Default port of the demo.
const DEMO_PORT: u16 = 5300;

impl Lab {
    /// Runs the tour, or the demo until the user quits.
    pub(super) fn run(&self) -> CommandOutcome {
        // One thread suffices for the upstreams, and leaves the other CPUs to nodens.
        let result = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let outcome = runtime.block_on(self.play());
            // The thread that reads the standard input blocks and must not delay the exit.
            runtime.shutdown_background();
            outcome
        });
        result.unwrap_or_else(|error| {
            complain(format_args!("nodens lab: {error}"));
            CommandOutcome::Failed
        })
    }

    async fn play(&self) -> io::Result<CommandOutcome> {
        let port = self.port.unwrap_or(if self.tour { 0 } else { DEMO_PORT });
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Some(taken) = taken(listen) {
            complain(format_args!("nodens lab: {taken} of {listen} is in use; --port 0 takes any that is free"));
            return Ok(CommandOutcome::Failed);
        }
        let admin = self.admin_port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let network = LabNetwork::start().await?;
        let front = Front::start(&network.config(&[listen], admin)).await.map_err(io::Error::other)?;
        let outcome = match front.addresses().first() {
            Some(&address) if self.tour => match tour(&network, address, io::stdout()).await? {
                score if score.failed == 0 => CommandOutcome::Good,
                _ => CommandOutcome::Failed,
            },
            Some(&address) => demo(&network, &front, address).await?,
            None => return Err(io::Error::other("nodens listens nowhere")),
        };
        front.stop().await;
        Ok(outcome)
    }
}

/// Prints an introduction and executes commands until the user quits.
async fn demo(network: &LabNetwork, front: &Front, address: SocketAddr) -> io::Result<CommandOutcome> {
    introduce(network, front, address)?;
    let mut console = Console::new(network);
    let mut lines = lines();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        let line = tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            Some(line) = lines.recv() => line,
        };
        match console.obey(&line).await {
            CommandResult::Say(said) => writeln!(io::stdout(), "{said}")?,
            CommandResult::Quit => break,
        }
    }
    Ok(CommandOutcome::Good)
}

fn introduce(network: &LabNetwork, front: &Front, address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "nodens listens on {address}, UDP and TCP.")?;
    if let Some(admin) = front.admin() {
        writeln!(out, "Its status page is at http://{admin}/")?;
    }
    for effective_view in &HORIZONS {
        writeln!(
            out,
            "\n{}, {:?} away: {}",
            effective_view.group,
            effective_view.latency,
            effective_view.zones.join(", ")
        )?;
        for server in network.group(effective_view.group) {
            writeln!(out, "  {:<9} {}", server.name, server.upstream.address())?;
        }
        for (name, qtype) in effective_view.examples {
            writeln!(out, "  {}", dig(address, name, qtype))?;
        }
    }
    writeln!(out, "\nnodens itself\n  {}", dig(address, STATIC_RECORD.0, "A"))?;
    writeln!(out, "\nBreak something and ask again; db.corp.example lives for a second only:\n{HELP}\n")
}

fn dig(address: SocketAddr, name: &str, qtype: &str) -> String {
    format!("dig @{} -p {} {name} {qtype}", address.ip(), address.port())
}

/// Returns a channel with the lines of the standard input, which a separate thread reads.
fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Returns the transport of `address` that is in use by another socket, if any.
fn taken(address: SocketAddr) -> Option<&'static str> {
    let in_use = |result: io::Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    if in_use(UdpSocket::bind(address).map(drop)) {
        Some("the UDP port")
    } else if in_use(TcpListener::bind(address).map(drop)) {
        Some("the TCP port")
    } else {
        None
    }
}

fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}"); // a closed stderr cannot be reported
}
