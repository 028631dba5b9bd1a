//! Failures of one attempt and of all attempts, and their words in extended errors and metrics.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;

use super::local_fault::LocalFault;
use super::message::{ResponseFault, ResponseSummary};
use super::transport::Transport;
use crate::cause::Cause;
use crate::wire::text::plain;
use crate::wire::{Rcode, ede, rcode};

/// Failure of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No response in time.
    Timeout,
    /// The host reports that the port is closed.
    ConnectionRefused,
    /// The host or its network cannot be reached, or the connection broke.
    Network,
    /// Response code SERVFAIL.
    Servfail,
    /// Response code REFUSED.
    Refused,
    /// Response code NOTIMP.
    Notimp,
    /// Response code FORMERR or BADVERS.
    Formerr,
    /// Another response code that is no answer.
    OtherRcode,
    /// A response that cannot be parsed, or has impossible records; over a connection also one that does not match.
    Malformed,
    /// A referral to other servers.
    Referral,
    /// Over a connection: a response that began to arrive and did not end in time.
    Incomplete,
    /// TLS could not be set up; no query was sent.
    Tls(TlsFault),
    /// The group's `max_qps` is used up; no query was sent.
    Quota,
    /// This machine could not send the query; no evidence about the server.
    Local(LocalFault),
}

/// Reason why TLS could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFault {
    /// The certificate does not contain the configured name.
    WrongName,
    /// No trusted root has issued the certificate.
    UnknownIssuer,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid for another reason.
    BadCertificate,
    /// The handshake failed: the peer does not speak TLS, or not correctly.
    Handshake,
    /// No root is trusted: the configured roots cannot be loaded.
    NoRoots,
}

impl TlsFault {
    /// Returns the words for an extended error (RFC 8914).
    fn words(self) -> &'static str {
        match self {
            Self::WrongName => "TLS certificate for another name",
            Self::UnknownIssuer => "TLS certificate of an unknown issuer",
            Self::Expired => "TLS certificate expired",
            Self::BadCertificate => "TLS certificate not valid",
            Self::Handshake => "TLS handshake failed",
            Self::NoRoots => "no TLS root certificates",
        }
    }
}

impl FailureKind {
    /// Returns the failure that a response code means; `None` for an answer.
    pub fn of_rcode(code: Rcode) -> Option<Self> {
        match code {
            rcode::NOERROR | rcode::NXDOMAIN => None,
            rcode::SERVFAIL => Some(Self::Servfail),
            rcode::REFUSED => Some(Self::Refused),
            rcode::NOTIMP => Some(Self::Notimp),
            // Some servers without EDNS respond BADVERS.
            rcode::FORMERR | rcode::BADVERS => Some(Self::Formerr),
            _ => Some(Self::OtherRcode),
        }
    }

    /// Returns the failure that a response is; `None` for an answer.
    pub(super) fn of_verdict(verdict: &ResponseSummary) -> Option<Self> {
        match verdict.fault {
            Some(ResponseFault::Malformed) => Some(Self::Malformed),
            Some(ResponseFault::Referral) => Some(Self::Referral),
            None => Self::of_rcode(verdict.rcode),
        }
    }

    /// Returns the failure for an error of opening a socket or writing to it.
    pub fn of_error(error: &io::Error) -> Self {
        LocalFault::of(error).map_or_else(|| Self::of_arrived(error), Self::Local)
    }

    /// Returns the failure for an error reported to a socket later: it came over the network, whatever its number.
    pub fn of_arrived(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Network,
        }
    }

    /// Reports whether the server responded: then another query may well succeed, and costs no time.
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

    /// Reports whether an immediate retry at the same server would fail the same way.
    pub(super) fn is_final(self) -> bool {
        let lasts = matches!(self, Self::Local(fault) if !fault.is_brief());
        lasts || self.is_reply() || matches!(self, Self::Quota | Self::Tls(_))
    }

    /// Reports whether the failure counts for the server's health.
    pub fn is_servers(self) -> bool {
        !matches!(self, Self::Quota | Self::Local(_))
    }

    /// Returns the value of the label `kind` in metrics.
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

    /// Returns the words for an extended error (RFC 8914).
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
            Self::Malformed => "malformed response",
            Self::Referral => "a referral to other servers",
            Self::Incomplete => "a response without an end",
            Self::Tls(fault) => fault.words(),
            Self::Quota => "not asked: max_qps is used up",
            Self::Local(fault) => fault.words(),
        }
    }
}

/// Failure of all attempts.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// Attempts in the order in which they failed.
    pub tried: Vec<(SocketAddr, Transport, FailureKind)>,
    /// Extended error of the last error response that had one (RFC 8914): info-code and text.
    pub extended_error: Option<(u16, Vec<u8>)>,
}

impl Failure {
    /// Reports whether the failure is no evidence about the name: `max_qps` prevented all attempts, or this machine could
    /// not query some server, which might have answered.
    pub fn is_unasked(&self) -> bool {
        let is_local = |kind: FailureKind| matches!(kind, FailureKind::Local(_));
        let asked = |server| self.tried.iter().any(|(other, _, kind)| *other == server && !is_local(*kind));
        let left_out = self.tried.iter().any(|(server, _, kind)| is_local(*kind) && !asked(*server));
        let by_quota = self.tried.iter().all(|(_, _, kind)| *kind == FailureKind::Quota);
        !self.tried.is_empty() && (by_quota || left_out)
    }

    /// Returns the cause for reports.
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

    /// Returns the text of an extended error: the last failure of each server.
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
            // The text of a server's extended error has no effect.
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
