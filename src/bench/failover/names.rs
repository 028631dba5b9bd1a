//! Names of the queries, each asked once, and the check of the responses.

use std::io;

use hickory_proto::op::ResponseCode;

use crate::lab::client::Reply;
use crate::lab::zone::{Zone, address_of};

/// Returns the zone of the upstreams: every name has an address that is computed from the name.
pub fn zone() -> Zone {
    Zone::new(".").addresses_from_names()
}

/// Name that no upstream answers in the "lame" fault.
pub const LAME: &str = "lame.failover.example";

/// Returns the `number`th name of a run. Each run starts a new server, which is asked each name only once.
pub fn name(number: u32) -> String {
    format!("n{number}.failover.example")
}

/// Outcome of a query for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The address of the name, and no other record.
    Good,
    /// Another answer: another address, NODATA or NXDOMAIN.
    Wrong,
    /// A response with an error code: SERVFAIL, REFUSED and the like.
    Failed,
    /// No response within the client's timeout, or an error of the system such as a closed port.
    Silent,
}

impl Verdict {
    /// Classifies the result of a query for `name`.
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
