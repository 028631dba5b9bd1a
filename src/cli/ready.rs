//! `nodens ready`: reports whether the nodens of this container has started, for the startup probe of its pod.
//!
//! In the node's network, two nodens have the same sockets during a handover, so a request to the admin pages may reach the old
//! one. Here each is found by its PID namespace: a nodens that has started binds a Unix socket with the number of its namespace
//! in its name. Nothing is ever sent to this socket.

use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{fs, io};

use clap::Args;

use super::CommandOutcome;

/// Report whether the nodens of this container has started, for the startup probe of its pod.
///
/// Exit codes: 0 a nodens in the PID namespace of this command serves, or is on standby behind its successor; 1 there is none, or
/// it is still starting. An HTTP probe of the admin pages cannot tell this in the network of a node: while a new nodens takes over
/// from the old one, both have the same sockets.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ready {}

const EXAMPLES: &str = "\
Examples:
  nodens ready && echo serves
  kubectl -n nodens exec POD -- /nodens ready
  startupProbe: {exec: {command: [/nodens, ready]}}     in a container of a pod";

/// Proof that this process has started; ends with it.
pub(super) struct ReadySocket {
    /// Bound, so that it is found.
    _socket: UnixDatagram,
}

impl ReadySocket {
    /// Binds the socket. Without one the container is never ready, which the log explains.
    pub(super) fn bind() -> Option<Self> {
        match name().and_then(|name| UnixDatagram::bind_addr(&name)) {
            Ok(socket) => Some(Self { _socket: socket }),
            // Another nodens of the same namespace has started.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => {
                tracing::warn!(%error, "`nodens ready` cannot find this process");
                None
            }
        }
    }
}

impl Ready {
    pub(super) fn run(&self) -> CommandOutcome {
        let found = name().and_then(|name| UnixDatagram::unbound()?.connect_addr(&name));
        match found {
            Ok(()) => {
                // The exit code is the result.
                let _ = writeln!(io::stdout(), "ready");
                CommandOutcome::Good
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = writeln!(io::stderr(), "nodens: no nodens of this PID namespace has started");
                CommandOutcome::Failed
            }
            Err(error) => {
                let _ = writeln!(io::stderr(), "nodens: cannot look for a nodens of this PID namespace: {error}");
                CommandOutcome::Failed
            }
        }
    }
}

/// Returns the name of the socket, in the abstract namespace: see unix(7).
fn name() -> io::Result<SocketAddr> {
    let namespace = fs::read_link("/proc/self/ns/pid")?;
    SocketAddr::from_abstract_name(format!("nodens-ready-{}", namespace.display()))
}
