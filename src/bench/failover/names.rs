//! The names that are asked for, each but once, and whether what came back is right.

use std::io;

use hickory_proto::op::ResponseCode;

use crate::lab::client::Reply;
use crate::lab::zone::{Zone, address_of};

/// What the upstreams know: an address for every name, computed from it.
pub fn zone() -> Zone {
    Zone::new(".").addresses_from_names()
}

/// The name that nobody answers in the run with a lame one.
pub const LAME: &str = "lame.failover.example";

/// The `number`th name of a run. A server is fresh for each run, so no name is asked of it twice.
pub fn name(number: u32) -> String {
    format!("n{number}.failover.example")
}

/// What a client got for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The one address that the name has.
    Good,
    /// Another answer than that: another address, none, or the word that there is no such name.
    Wrong,
    /// A reply that says that there is no answer: SERVFAIL, REFUSED and the like.
    Failed,
    /// Nothing, for as long as the client waits; or the system's word that nobody listens.
    Silent,
}

impl Verdict {
    /// Judges what came back for `name`.
    pub fn of(name: &str, reply: &io::Result<Reply>) -> Self {
        match reply {
            Err(_) => Self::Silent,
            Ok(reply) => Self::judge(name, reply.rcode(), &reply.data()),
        }
    }

    fn judge(name: &str, rcode: ResponseCode, data: &[String]) -> Self {
        match rcode {
            ResponseCode::NoError if *data == [address_of(name).to_string()] => Self::Good,
            ResponseCode::NoError | ResponseCode::NXDomain => Self::Wrong,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_the_name_is_good() {
        let judge = |rcode, data: &[String]| Verdict::judge(&name(7), rcode, data);
        let (right, other) = (address_of("N7.failover.example.").to_string(), address_of(&name(8)).to_string());
        let ok = ResponseCode::NoError;
        assert_eq!(judge(ok, std::slice::from_ref(&right)), Verdict::Good);
        assert_eq!(judge(ok, std::slice::from_ref(&other)), Verdict::Wrong);
        assert_eq!(judge(ok, &[right.clone(), other]), Verdict::Wrong);
        assert_eq!(judge(ok, &[]), Verdict::Wrong);
        assert_eq!(judge(ResponseCode::NXDomain, &[]), Verdict::Wrong);
        assert_eq!(judge(ResponseCode::ServFail, &[]), Verdict::Failed);
        assert_eq!(judge(ResponseCode::Refused, &[right]), Verdict::Failed);
        assert_eq!(Verdict::of(&name(7), &Err(io::ErrorKind::TimedOut.into())), Verdict::Silent);
    }
}
