//! What a socket that is handed over is for: the word that travels with it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Queries over UDP.
    Udp(Address),
    /// Queries over TCP.
    Tcp(Address),
    /// The admin pages.
    Admin(Address),
    /// Where each client sees itself.
    Report(Address),
    /// Where another nodens asks for all this.
    Handover,
    /// The way to one that rests as long as this is open.
    Elder,
    /// The way to one for which this process rests.
    Heir,
}

/// Where a socket listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// As the configuration has it; port 0 is any.
    pub wanted: SocketAddr,
    /// With the true port.
    pub bound: SocketAddr,
}
