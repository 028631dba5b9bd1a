//! Why nobody is said to have an address.

use std::fmt;

/// Why an address is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// No pod of this node that is known has it.
    Nobody,
    /// It is the node's own, shared by all pods of the host network.
    Host,
    /// More than one pod has it, or may have.
    Shared,
    /// Its pod is being deleted while another one waits for an address.
    Ending,
    /// The Kubernetes API has not been heard for too long.
    Lost,
}

impl Unknown {
    /// As APIs show it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Host => "host",
            Self::Shared => "shared",
            Self::Ending => "ending",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "no pod of this node that is known has this address",
            Self::Host => "this is the node's own address, which all pods of the host network share",
            Self::Shared => "more than one pod has this address, or may have: the end of one of them is not known yet",
            Self::Ending => "its pod is being deleted, and another one that waits for an address may have it already",
            Self::Lost => "the Kubernetes API has not been heard for too long",
        })
    }
}
