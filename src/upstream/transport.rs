//! Transports to a server, and their properties. `connections` opens them; each has a file with its sockets.

use crate::metrics::TRANSPORTS;

/// Transport of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl Transport {
    /// Returns the value of the label `transport` in the metrics.
    pub(crate) fn label(self) -> &'static str {
        TRANSPORTS[self as usize]
    }

    /// Reports whether each message is a datagram. A response may then be truncated, late or forged by a third party.
    pub(crate) fn is_datagram(self) -> bool {
        self == Self::Udp
    }

    /// Reports whether messages are encrypted. Queries are then padded (RFC 8467), and no other transport replaces this one.
    pub(crate) fn is_encrypted(self) -> bool {
        self == Self::Tls
    }
}
