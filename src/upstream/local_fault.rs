//! Faults of this machine that prevent the sending of a query, and are no evidence about its server.

use std::io;

use nix::errno::Errno;

use crate::metrics::faults::CAUSES;

/// Reason why this machine could not send a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalFault {
    /// The process (EMFILE) or the system (ENFILE) has no file descriptor left.
    Descriptors,
    /// No memory for a socket or its event, or no room in a queue of the kernel: ENOBUFS, ENOMEM, EAGAIN, ENOSPC.
    Buffers,
    /// No local port or address is left for the socket: EADDRNOTAVAIL, EADDRINUSE.
    Ports,
    /// A rule of this machine forbids it: EPERM (netfilter's output chain, a BPF program of the control group, seccomp).
    Forbidden,
    /// Not supported by this machine: a disabled address family or protocol, a message too long for the path, arguments
    /// that the kernel rejects.
    Unsupported,
    /// This worker has reached its limit of queries in flight to the server, or the client its share.
    Busy,
}

impl LocalFault {
    /// Returns the fault that an error of `socket`, `bind`, `connect`, `send` or `accept` reports; `None` if it is about
    /// the peer or the path to it.
    ///
    /// ENETUNREACH, EHOSTUNREACH and ENETDOWN are not local: they are about the path to one server. The path to another
    /// one may be up (IPv6 is down, IPv4 is not), and ejecting the unreachable server keeps clients from trying it first;
    /// probes detect the recovery of the path. EACCES is not local either: a socket reports a firewall on the path by it
    /// (ICMPv6 "administratively prohibited"). ECONNREFUSED and ECONNRESET are reported by the server's host.
    pub fn of(error: &io::Error) -> Option<Self> {
        Some(match Errno::from_raw(error.raw_os_error()?) {
            Errno::EMFILE | Errno::ENFILE => Self::Descriptors,
            Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN | Errno::ENOSPC => Self::Buffers,
            Errno::EADDRNOTAVAIL | Errno::EADDRINUSE => Self::Ports,
            Errno::EPERM => Self::Forbidden,
            Errno::EAFNOSUPPORT
            | Errno::EPFNOSUPPORT
            | Errno::EPROTONOSUPPORT
            | Errno::ESOCKTNOSUPPORT
            | Errno::EPROTOTYPE
            | Errno::EMSGSIZE
            | Errno::EINVAL => Self::Unsupported,
            _ => return None,
        })
    }

    /// Reports whether an immediate retry at the same server may succeed: a queue drains, and source ports are drawn at
    /// random.
    pub fn is_brief(self) -> bool {
        matches!(self, Self::Buffers | Self::Busy)
    }

    /// Returns the index in [`CAUSES`].
    pub fn index(self) -> usize {
        match self {
            Self::Descriptors => 0,
            Self::Buffers => 1,
            Self::Ports => 2,
            Self::Forbidden => 3,
            Self::Unsupported => 4,
            Self::Busy => 5,
        }
    }

    /// Returns the value of the label `cause` in metrics.
    pub fn label(self) -> &'static str {
        CAUSES[self.index()].0
    }

    /// Returns the words for an extended error (RFC 8914).
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Descriptors => "not asked: nodens has no file descriptor left",
            Self::Buffers => "not asked: this machine has no socket buffer left",
            Self::Ports => "not asked: this machine has no local port left",
            Self::Forbidden => "not asked: this machine forbids it",
            Self::Unsupported => "not asked: this machine does not support it",
            Self::Busy => "not asked: too many queries are in flight",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_errors_are_local_or_of_the_path() {
        let fault = |errno: Errno| LocalFault::of(&io::Error::from_raw_os_error(errno as i32));
        for (errno, label) in [
            (Errno::EMFILE, "descriptors"),
            (Errno::ENFILE, "descriptors"),
            (Errno::ENOBUFS, "buffers"),
            (Errno::EAGAIN, "buffers"),
            (Errno::EADDRNOTAVAIL, "ports"),
            (Errno::EADDRINUSE, "ports"),
            (Errno::EPERM, "forbidden"),
            (Errno::EAFNOSUPPORT, "unsupported"),
        ] {
            assert_eq!(fault(errno).map(LocalFault::label), Some(label), "{errno}");
        }
        for errno in [
            Errno::ECONNREFUSED,
            Errno::ECONNRESET,
            Errno::ENETUNREACH,
            Errno::EHOSTUNREACH,
            Errno::ENETDOWN,
            Errno::EACCES,
            Errno::ETIMEDOUT,
            Errno::EPIPE,
        ] {
            assert_eq!(fault(errno), None, "{errno}");
        }
        // An error made up by a library is not one of the kernel.
        assert_eq!(LocalFault::of(&io::ErrorKind::PermissionDenied.into()), None);
        assert_eq!(LocalFault::of(&io::ErrorKind::WouldBlock.into()), None);
    }

    #[test]
    fn each_fault_has_a_cause_of_its_own_in_metrics() {
        use LocalFault::{Buffers, Busy, Descriptors, Forbidden, Ports, Unsupported};
        let all = [Descriptors, Buffers, Ports, Forbidden, Unsupported, Busy];
        let indexes: Vec<_> = all.iter().map(|fault| fault.index()).collect();
        assert_eq!(indexes, (0..CAUSES.len()).collect::<Vec<_>>());
    }
}
