//! Reasons for which nodens cannot start, with advice.

use std::io;
use std::net::SocketAddr;

/// Reason for which nodens cannot start. Another attempt succeeds only after the cause is removed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Failure to listen on an address.
    #[error("cannot listen on {address} ({what}): {}", reason(*.address, .error))]
    Listen {
        /// Address that could not be bound.
        address: SocketAddr,
        /// Purpose of the address, such as `DNS over UDP`.
        what: &'static str,
        /// Error that the kernel returned.
        error: io::Error,
    },
    /// Lack of a thread or an event queue.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Failure to register the metrics.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Returns the kernel's error, with advice if there is any.
fn reason(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the port is in use: `ss -lunpt sport = :{}` shows the process", address.port())
        }
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE".to_string()
        }
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".to_string(),
        _ => error.to_string(),
    }
}
