//! Why the node cannot be as it is to be, and what may help.

use std::io;
use std::net::IpAddr;

/// Why the node cannot be as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The process may not change the network.
    #[error("cannot {what}: it needs CAP_NET_ADMIN")]
    NotPermitted {
        /// What it wanted to do.
        what: String,
    },
    /// There is no link of that name.
    #[error("there is no link {0}: see [node] interface")]
    NoLink(String),
    /// Another link has the address already.
    #[error("{address} is on the link {link} already, not on {wanted}: see [node] interface")]
    Elsewhere {
        /// The address.
        address: IpAddr,
        /// Where it is.
        link: String,
        /// Where it should be.
        wanted: String,
    },
    /// The kernel refuses.
    #[error("cannot {what}: {error}")]
    Refused {
        /// What was to be done.
        what: String,
        /// The kernel's word.
        error: io::Error,
    },
}

impl NodeError {
    /// The kernel refuses to do `what`.
    pub(super) fn of(error: io::Error, what: impl Into<String>) -> Self {
        let what = what.into();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { what },
            _ => Self::Refused { what, error },
        }
    }
}
