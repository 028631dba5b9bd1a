//! Errors of the setup of the node's network, with a hint for a remedy.

use std::io;
use std::net::IpAddr;

/// Failure to set up the node's network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// Missing permission to change the network.
    #[error("cannot {what}: it needs CAP_NET_ADMIN")]
    NotPermitted { what: String },
    /// IPv6 is switched off on the link.
    #[error("cannot {what}: IPv6 is switched off there (the sysctl disable_ipv6)")]
    NoIpv6 { what: String },
    /// No link with this name.
    #[error("there is no link {0}: see [node] interface")]
    NoLink(String),
    /// Another link already has the address.
    #[error("{address} is on the link {link} already, not on {wanted}: see [node] interface and take_over")]
    Elsewhere {
        address: IpAddr,
        /// The link that has it.
        link: String,
        wanted: String,
    },
    /// The configured link has an address of the program from which nodens is to take over.
    #[error("the link {0} belongs to the program from which nodens takes over, and goes with it: see [node] interface")]
    ForeignLink(String),
    /// A process listens on one of the addresses, and renews none of them.
    #[error("a process listens on {0}, which is no nodens with a fallback")]
    InUse(IpAddr),
    /// No server would answer while nodens does not.
    #[error("there is no fallback that would answer: see [node] fallback")]
    NoFallback,
    /// Any other error of the kernel.
    #[error("cannot {what}: {error}")]
    Refused { what: String, error: io::Error },
}

impl NodeError {
    /// Returns the error for the operation `what`.
    pub(super) fn of(error: io::Error, what: impl Into<String>) -> Self {
        let what = what.into();
        match error.kind() {
            // The kernel's answer for an address of IPv6 on a link without it. Without the capability, it is EPERM.
            io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(libc::EACCES) => Self::NoIpv6 { what },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { what },
            _ => Self::Refused { what, error },
        }
    }
}
