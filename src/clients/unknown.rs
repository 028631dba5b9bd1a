//! Reasons why an address identifies no client.

use std::fmt;

/// Reason why an address identifies no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// No recorded pod of this node has the address.
    Unassigned,
    /// The address is the node's own, shared by all pods of the host network.
    Host,
    /// More than one pod has the address, or may have it.
    Shared,
    /// The pod is being deleted while another pod waits for an address.
    Terminating,
    /// The watch of the Kubernetes API has been lost for too long.
    WatchStale,
}

impl Unknown {
    /// Returns the name in APIs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unassigned => "unassigned",
            Self::Host => "host",
            Self::Shared => "shared",
            Self::Terminating => "terminating",
            Self::WatchStale => "watch_stale",
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unassigned => "no known pod of this node has this address",
            Self::Host => "this is the node's own address, which all pods of the host network share",
            Self::Shared => "more than one pod has this address, or may have: the end of one of them is not known yet",
            Self::Terminating => {
                "its pod is being deleted, and another one that waits for an address may have it already"
            }
            Self::WatchStale => "the Kubernetes watch has been lost for too long",
        })
    }
}
