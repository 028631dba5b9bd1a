//! What can go wrong with one attempt and with all of them, and the words that clients and metrics get for it.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;

use super::local::LocalFault;
use super::message::{Fault, Verdict};
use super::transport::Transport;
use crate::cause::Cause;
use crate::wire::text::plain;
use crate::wire::{Rcode, ede, rcode};

/// What went wrong with one attempt at one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No reply in time.
    Timeout,
    /// The host says that nobody listens there.
    ConnectionRefused,
    /// The host or its network cannot be reached, or the connection broke.
    Network,
    /// It answered SERVFAIL.
    Servfail,
    /// It answered REFUSED.
    Refused,
    /// It answered NOTIMP.
    Notimp,
    /// It answered FORMERR, without EDNS too.
    Formerr,
    /// It answered with another response code that is no answer.
    OtherRcode,
    /// A reply that cannot be read, or has records that cannot be right; over a connection also one that does not match.
    Malformed,
    /// It named other servers to ask.
    Referral,
    /// Over a connection: a response that began to come, and did not come to its end.
    Incomplete,
    /// TLS could not be set up; nothing was asked.
    Tls(TlsFault),
    /// The group's `max_qps` is used up; nothing was asked.
    Quota,
    /// This machine could not ask; nothing is known of the server.
    Local(LocalFault),
}

/// Why TLS could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFault {
    /// The certificate does not bear the configured name.
    WrongName,
    /// No trusted root stands behind the certificate.
    UnknownIssuer,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid for another reason.
    BadCertificate,
    /// The handshake failed: a peer that does not speak TLS, or not as it should.
    Handshake,
    /// Nobody is trusted: the configured roots cannot be read.
    NoRoots,
}

impl TlsFault {
    /// The words for it in an extended error (RFC 8914).
    fn words(self) -> &'static str {
        match self {
            Self::WrongName => "TLS certificate for another name",
            Self::UnknownIssuer => "TLS certificate of an unknown issuer",
            Self::Expired => "TLS certificate expired",
            Self::BadCertificate => "TLS certificate not valid",
            Self::Handshake => "TLS handshake failed",
            Self::NoRoots => "no cannot load TLS root certificates",
        }
    }
}

impl FailureKind {
    /// What a reply with this response code is, if it is no answer.
    pub fn of_rcode(code: Rcode) -> Option<Self> {
        match code {
            rcode::NOERROR | rcode::NXDOMAIN => None,
            rcode::SERVFAIL => Some(Self::Servfail),
            rcode::REFUSED => Some(Self::Refused),
            rcode::NOTIMP => Some(Self::Notimp),
            // BADVERS is what some servers that do not know EDNS make of it.
            rcode::FORMERR | rcode::BADVERS => Some(Self::Formerr),
            _ => Some(Self::OtherRcode),
        }
    }

    /// What a reply is, if it is no answer.
    pub(super) fn of_verdict(verdict: &Verdict) -> Option<Self> {
        match verdict.fault {
            Some(Fault::Malformed) => Some(Self::Malformed),
            Some(Fault::Referral) => Some(Self::Referral),
            None => Self::of_rcode(verdict.rcode),
        }
    }

    /// Which failure an error of a socket is, when it is opened or written to.
    pub fn of_error(error: &io::Error) -> Self {
        LocalFault::of(error).map_or_else(|| Self::of_arrived(error), Self::Local)
    }

    /// Which failure an error is that was reported to a socket later on: it came over the network, whatever its number.
    pub fn of_arrived(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Network,
        }
    }

    /// Whether the server answered at all: then another query may well succeed, and waiting for it costs nothing.
    pub fn is_reply(self) -> bool {
        matches!(
            self,
            Self::Servfail
                | Self::Refused
                | Self::Notimp
                | Self::Formerr
                | Self::OtherRcode
                | Self::Malformed
                | Self::Referral
                | Self::Incomplete
        )
    }

    /// Whether asking the same server again at once would come to the same.
    pub(super) fn is_final(self) -> bool {
        let lasts = matches!(self, Self::Local(fault) if !fault.is_brief());
        lasts || self.is_reply() || matches!(self, Self::Quota | Self::Tls(_))
    }

    /// Whether it is the server's: it then counts for the server's health.
    pub fn is_servers(self) -> bool {
        !matches!(self, Self::Quota | Self::Local(_))
    }

    /// The value of the label `kind` in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::ConnectionRefused => "connection_refused",
            Self::Network => "network",
            Self::Servfail => "servfail",
            Self::Refused => "refused",
            Self::Notimp => "notimp",
            Self::Formerr => "formerr",
            Self::OtherRcode => "other_rcode",
            Self::Malformed | Self::Incomplete => "malformed",
            Self::Referral => "referral",
            Self::Tls(_) => "tls",
            Self::Quota => "quota",
            Self::Local(_) => "local",
        }
    }

    /// The words for it in an extended error (RFC 8914).
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Timeout => "no response",
            Self::ConnectionRefused => "port closed",
            Self::Network => "network error",
            Self::Servfail => "SERVFAIL",
            Self::Refused => "REFUSED",
            Self::Notimp => "NOTIMP",
            Self::Formerr => "FORMERR",
            Self::OtherRcode => "an unusual response code",
            Self::Malformed => "malformed reply",
            Self::Referral => "a referral to other servers",
            Self::Incomplete => "a response without an end",
            Self::Tls(fault) => fault.words(),
            Self::Quota => "not asked: max_qps is used up",
            Self::Local(fault) => fault.words(),
        }
    }
}

/// Nobody gave an answer in time.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// Each attempt in the order it was made.
    pub tried: Vec<(SocketAddr, Transport, FailureKind)>,
    /// The extended error that the last failing reply carried (RFC 8914): info-code and text.
    pub extended_error: Option<(u16, Vec<u8>)>,
}

impl Failure {
    /// Whether it says nothing of the name: nobody was asked, because of `max_qps`; or some server was not asked at all
    /// because this machine could not, which might have answered.
    pub fn is_unasked(&self) -> bool {
        let is_local = |kind: FailureKind| matches!(kind, FailureKind::Local(_));
        let asked = |server| self.tried.iter().any(|(other, _, kind)| *other == server && !is_local(*kind));
        let left_out = self.tried.iter().any(|(server, _, kind)| is_local(*kind) && !asked(*server));
        let by_quota = self.tried.iter().all(|(_, _, kind)| *kind == FailureKind::Quota);
        !self.tried.is_empty() && (by_quota || left_out)
    }

    /// Why there is no answer.
    pub fn cause(&self) -> Cause {
        let any = |is: fn(FailureKind) -> bool| self.tried.iter().any(|(_, _, kind)| is(*kind));
        let all =
            |is: fn(FailureKind) -> bool| !self.tried.is_empty() && self.tried.iter().all(|(_, _, kind)| is(*kind));
        if all(|kind| kind == FailureKind::Quota) {
            Cause::RateLimited
        } else if all(|kind| matches!(kind, FailureKind::Local(_))) {
            Cause::LocalFault
        } else if any(FailureKind::is_reply) {
            match self.extended_error {
                Some((code, _)) if ede::is_policy(code) => Cause::Blocked,
                _ => Cause::UpstreamFailed,
            }
        } else if any(|kind| kind == FailureKind::Timeout) {
            Cause::UpstreamTimeout
        } else {
            Cause::UpstreamUnreachable
        }
    }

    /// The words for it in an extended error: what was tried, each server once.
    pub fn explain(&self, group: &str) -> String {
        let mut text = format!("upstream {group}:");
        let mut told = Vec::new();
        for (server, transport, kind) in self.tried.iter().rev() {
            if told.contains(server) {
                continue;
            }
            let over = match (transport, kind) {
                (_, FailureKind::Tls(_) | FailureKind::Quota | FailureKind::Local(_)) | (Transport::Udp, _) => "",
                (Transport::Tcp, _) => " over TCP",
                (Transport::Tls, _) => " over TLS",
            };
            let comma = if told.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma} {server} {}{over}", kind.words());
            told.push(*server);
        }
        if told.is_empty() {
            text.push_str(" no server to ask");
        }
        if let Some((code, detail)) = &self.extended_error {
            let _ = write!(text, "; extended error {code} {}", plain(&String::from_utf8_lossy(detail)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_best_that_any_server_did() {
        let cause = |kinds: &[FailureKind]| {
            let server = SocketAddr::from(([10, 0, 0, 1], 53));
            let tried = kinds.iter().map(|kind| (server, Transport::Udp, *kind)).collect();
            // What a server writes changes nothing.
            Failure { tried, extended_error: Some((22, b"no reply: max_qps".to_vec())) }.cause()
        };
        use FailureKind::{ConnectionRefused, Local, Malformed, Network, Quota, Servfail, Timeout};
        let local = Local(LocalFault::Ports);
        for (kinds, expected) in [
            (&[][..], Cause::UpstreamUnreachable),
            (&[Timeout, ConnectionRefused], Cause::UpstreamTimeout),
            (&[ConnectionRefused, Network], Cause::UpstreamUnreachable),
            (&[Timeout, Servfail], Cause::UpstreamFailed),
            (&[Malformed, Timeout], Cause::UpstreamFailed),
            (&[Quota, Quota], Cause::RateLimited),
            (&[local], Cause::LocalFault),
            (&[local, Timeout], Cause::UpstreamTimeout),
        ] {
            assert_eq!(cause(kinds), expected, "{kinds:?}");
        }
        let tried = vec![(SocketAddr::from(([10, 0, 0, 1], 53)), Transport::Udp, FailureKind::Refused)];
        assert_eq!(Failure { tried, extended_error: Some((ede::BLOCKED, Vec::new())) }.cause(), Cause::Blocked);
    }
}
