//! Faults of this machine: what keeps a query from being sent, and says nothing of the server that it was for.

use std::io;

use nix::errno::Errno;

use crate::metrics::faults::CAUSES;

/// Why this machine could not send a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalFault {
    /// The process (EMFILE) or the system (ENFILE) has no file descriptor left.
    Descriptors,
    /// No memory for a socket or its event, or no room in a queue of the kernel: ENOBUFS, ENOMEM, EAGAIN, ENOSPC.
    Buffers,
    /// No local port or address is left for the connection: EADDRNOTAVAIL, EADDRINUSE.
    Ports,
    /// A rule of this machine forbids it: EPERM (netfilter's output chain, a BPF program of the control group, seccomp).
    Forbidden,
    /// This machine does not do it at all: an address family or protocol that is switched off, a message too long for the
    /// way out, arguments that the kernel does not take.
    Unsupported,
    /// As many queries are in flight to the server as this worker keeps.
    Busy,
}

impl LocalFault {
    /// Returns the fault that an error of `socket`, `bind`, `connect`, `send` or `accept` reports; none if it is about the
    /// peer or the way there.
    ///
    /// ENETUNREACH, EHOSTUNREACH and ENETDOWN are no local faults: they are about the way to one server. The way to another
    /// may be up (IPv6 is down, IPv4 is not), and ejecting the unreachable one keeps clients from trying it first; probes find
    /// out when the way is back. So is EACCES, by which a socket reports a firewall on the way (ICMPv6 "administratively
    /// prohibited"). ECONNREFUSED and ECONNRESET are the word of the server's host.
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

    /// Whether another attempt at the same server, at once, may do better: a queue drains and ports are drawn at random.
    pub fn is_brief(self) -> bool {
        matches!(self, Self::Buffers | Self::Busy)
    }

    /// Its index in [`CAUSES`].
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

    /// The value of the label `cause` in metrics.
    pub fn label(self) -> &'static str {
        CAUSES[self.index()].0
    }

    /// The words for it in an extended error (RFC 8914).
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
    fn what_the_kernel_says_of_this_machine_is_local_and_what_it_says_of_the_way_is_not() {
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
        // What a library makes up is not the kernel's word.
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
