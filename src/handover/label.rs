//! Purpose of a socket that is handed over, sent along with it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Purpose of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    Udp(ListenAddress),
    Tcp(ListenAddress),
    Admin(ListenAddress),
    /// The report to clients about themselves.
    Report(ListenAddress),
    /// The socket to which successors connect.
    Handover,
    /// Channel to the predecessor, which is in standby while the channel is open.
    Elder,
    /// Channel to the successor for which this process is in standby.
    Heir,
}

/// Address on which a socket listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenAddress {
    /// The address in the configuration; port 0 is any.
    pub wanted: SocketAddr,
    /// The address with the port that was bound.
    pub bound: SocketAddr,
}
