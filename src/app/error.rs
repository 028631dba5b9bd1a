//! Why nodens could not start, and what to do.

use std::io;
use std::net::SocketAddr;

/// Why nodens could not start. Trying again makes sense only after the cause is gone.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {}", reason(*.address, .error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        what: &'static str,
        /// The kernel's word.
        error: io::Error,
    },
    /// The system gives no thread or no event queue.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The metrics cannot be registered.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The kernel's word, and what to do.
fn reason(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("the port is in use: `ss -lunpt sport = :{}` says by whom", address.port()),
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE".to_string()
        }
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".to_string(),
        _ => error.to_string(),
    }
}
