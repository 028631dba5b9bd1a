//! Causes of failures: one type from the place where a failure arises to the place where it is shown.
//!
//! The text of a failure is written once, where the failure arises, and is for people: no code parses it.
//! [`Cause::extended_error`] makes it an extended DNS error (RFC 8914).

use crate::wire::write::extended_error;
use crate::wire::{Rcode, ede, rcode, u16_at};

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The name does not exist, according to upstream servers.
    NoSuchName,
    /// nodens denies a special-use name itself.
    SpecialUse,
    /// nodens itself denies a name that cannot exist in the cluster (`prune_search`).
    Pruned,
    /// Upstream servers deny the name by a policy of theirs.
    Blocked,
    /// All addresses of the name were private, and its route allows none (`deny_private_addresses`); or it led to a name of
    /// another route (`deny_private_names`).
    Filtered,
    /// The view of this client denies the name.
    Denied,
    /// No server answered in time.
    UpstreamTimeout,
    /// No server could be reached: ports are closed, networks are down, connections cannot be set up.
    UpstreamUnreachable,
    /// Servers were reached but gave no answer.
    UpstreamFailed,
    /// CNAME records form a loop or too long a chain.
    CnameLoop,
    /// This machine could not send the query.
    LocalFault,
    /// A limit on queries was reached.
    RateLimited,
    /// This client may not send queries.
    Refused,
    /// The query could not be parsed, or requests an operation that nodens does not support.
    BadQuery,
    /// The answer did not fit into a UDP response, and the client did not repeat the query over TCP.
    TooBig,
}

impl Cause {
    /// Returns the value of `cause` in APIs and in the query log. The explanation says who denied a name that does not exist.
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

    /// Returns the cause for a response code, in a response that nodens makes itself; `None` for an answer.
    pub fn of_rcode(code: Rcode) -> Option<Self> {
        match code {
            rcode::NOERROR => None,
            rcode::NXDOMAIN => Some(Self::NoSuchName),
            rcode::SERVFAIL => Some(Self::UpstreamFailed),
            _ => Some(Self::BadQuery),
        }
    }

    /// Returns the cause of an upstream's response with this code and these extended errors (whole options); `None` for an
    /// answer.
    pub fn of_response(code: Rcode, extended_errors: &[u8]) -> Option<Self> {
        match code {
            rcode::NXDOMAIN if u16_at(extended_errors, 4).is_some_and(ede::is_policy) => Some(Self::Blocked),
            rcode::NOERROR | rcode::NXDOMAIN => Self::of_rcode(code),
            _ => Some(Self::UpstreamFailed),
        }
    }

    /// Returns the extended error with this cause, as a whole option (RFC 8914).
    pub fn extended_error(self, text: &str) -> Vec<u8> {
        extended_error(self.info_code(), text)
    }

    /// Returns the info-code (RFC 8914 section 4).
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
    fn upstream_policies_are_told_apart_by_info_code() {
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
