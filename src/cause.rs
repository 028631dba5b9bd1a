//! Why a query got no answer: one type from where a failure arises to where it is shown.
//!
//! The words of a failure are written once, where it arises, and are for people: no code reads them back. They become an
//! extended DNS error (RFC 8914) by [`Cause::extended_error`].

use crate::wire::make::extended_error;
use crate::wire::{Rcode, ede, rcode, u16_at};

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The name does not exist, as upstream servers say.
    NoSuchName,
    /// nodens denies a special-use name itself.
    SpecialUse,
    /// nodens denies a name that cannot be in the cluster itself (`prune_search`).
    Pruned,
    /// Upstream servers deny the name by a policy of theirs.
    Blocked,
    /// All addresses of the name were private, and its route lets none through (`deny_private_addresses`); or it led to a name of
    /// another route (`deny_private_names`).
    Filtered,
    /// The view that this client is of denies the name.
    Denied,
    /// No server answered in time.
    UpstreamTimeout,
    /// No server could be reached: ports are closed, networks are down, connections cannot be set up.
    UpstreamUnreachable,
    /// Servers were reached but gave no answer.
    UpstreamFailed,
    /// CNAME records lead in a circle or too far.
    CnameLoop,
    /// This machine could not ask.
    LocalFault,
    /// A limit on queries was reached.
    RateLimited,
    /// This client may not ask.
    Refused,
    /// The query could not be read, or asks for what nodens does not do.
    BadQuery,
    /// The answer did not fit into a UDP response, and the client did not ask for the rest of it over TCP.
    TooBig,
}

impl Cause {
    /// The value of `cause` in APIs and in the query log. What denied a name that does not exist is told by the explanation.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoSuchName | Self::SpecialUse | Self::Pruned => "no_such_name",
            Self::Blocked => "blocked",
            Self::Filtered => "filtered",
            Self::Denied => "denied",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamFailed => "upstream_failed",
            Self::CnameLoop => "cname_loop",
            Self::LocalFault => "local_fault",
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::BadQuery => "bad_query",
            Self::TooBig => "too_big",
        }
    }

    /// The cause that a response code alone stands for, in a response that nodens makes itself; none for an answer.
    pub fn of_rcode(code: Rcode) -> Option<Self> {
        match code {
            rcode::NOERROR => None,
            rcode::NXDOMAIN => Some(Self::NoSuchName),
            rcode::SERVFAIL => Some(Self::UpstreamFailed),
            _ => Some(Self::BadQuery),
        }
    }

    /// The cause of an upstream's response with this code and these extended errors (whole options); none for an answer.
    pub fn of_response(code: Rcode, extended_errors: &[u8]) -> Option<Self> {
        match code {
            rcode::NXDOMAIN if u16_at(extended_errors, 4).is_some_and(ede::is_policy) => Some(Self::Blocked),
            rcode::NOERROR | rcode::NXDOMAIN => Self::of_rcode(code),
            _ => Some(Self::UpstreamFailed),
        }
    }

    /// The extended error that tells a client of it, as a whole option (RFC 8914).
    pub fn extended_error(self, text: &str) -> Vec<u8> {
        extended_error(self.info_code(), text)
    }

    /// Its info-code (RFC 8914 section 4).
    pub fn info_code(self) -> u16 {
        match self {
            Self::Blocked | Self::Denied => ede::BLOCKED,
            Self::Filtered => ede::FILTERED,
            Self::Refused => ede::PROHIBITED,
            Self::Pruned => ede::SYNTHESIZED,
            Self::UpstreamTimeout | Self::UpstreamUnreachable => ede::NO_REACHABLE_AUTHORITY,
            Self::UpstreamFailed => ede::NETWORK_ERROR,
            Self::NoSuchName
            | Self::SpecialUse
            | Self::CnameLoop
            | Self::LocalFault
            | Self::RateLimited
            | Self::BadQuery
            | Self::TooBig => ede::OTHER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_the_upstream_is_told_apart_by_its_info_code() {
        let of = |code, info: Option<u16>| {
            let options = info.map(|info| extended_error(info, "max_qps, no reply")).unwrap_or_default();
            Cause::of_response(code, &options)
        };
        assert_eq!(of(rcode::NOERROR, Some(ede::BLOCKED)), None);
        assert_eq!(of(rcode::NXDOMAIN, None), Some(Cause::NoSuchName));
        assert_eq!(of(rcode::NXDOMAIN, Some(ede::STALE)), Some(Cause::NoSuchName));
        for info in [ede::BLOCKED, ede::CENSORED, ede::FILTERED, ede::PROHIBITED] {
            assert_eq!(of(rcode::NXDOMAIN, Some(info)), Some(Cause::Blocked), "{info}");
        }
        assert_eq!(of(rcode::SERVFAIL, Some(ede::BLOCKED)), Some(Cause::UpstreamFailed));
        assert_eq!(Cause::of_response(rcode::NXDOMAIN, &[0, 15, 0]), Some(Cause::NoSuchName));
    }
}
