//! The ways to a server.

/// How a server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
    /// A connection inside TLS.
    Tls,
}
