//! Names of the queries, each asked once, and the check of the responses.

use std::io;

use hickory_proto::op::ResponseCode;

use crate::lab::client::LabResponse;
use crate::lab::zone::{LabZone, address_of};

/// Returns the zone of the upstreams: every name has an address that is computed from the name.
pub fn zone() -> LabZone {
    LabZone::new(".").addresses_from_names()
}

/// Name that no upstream answers in the "lame" fault.
pub const LAME: &str = "lame.failover.example";

/// Returns the `number`th name of a run. Each run starts a new server, which is asked each name only once.
pub fn name(number: u32) -> String {
    format!("n{number}.failover.example")
}

/// Outcome of a query for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientResult {
    /// The address of the name, and no other record.
    Good,
    /// Another answer: another address, NODATA or NXDOMAIN.
    Wrong,
    /// A response with an error code: SERVFAIL, REFUSED and the like.
    Failed,
    /// No response within the client's timeout, or an error of the system such as a closed port.
    Silent,
}

impl ClientResult {
    /// Classifies the result of a query for `name`.
    pub fn of(name: &str, response: &io::Result<LabResponse>) -> Self {
        match response {
            Err(_) => Self::Silent,
            Ok(response) => Self::judge(name, response.rcode(), &response.data()),
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
        let judge = |rcode, data: &[String]| ClientResult::judge(&name(7), rcode, data);
        let (right, other) = (address_of("N7.failover.example.").to_string(), address_of(&name(8)).to_string());
        let ok = ResponseCode::NoError;
        assert_eq!(judge(ok, std::slice::from_ref(&right)), ClientResult::Good);
        assert_eq!(judge(ok, std::slice::from_ref(&other)), ClientResult::Wrong);
        assert_eq!(judge(ok, &[right.clone(), other]), ClientResult::Wrong);
        assert_eq!(judge(ok, &[]), ClientResult::Wrong);
        assert_eq!(judge(ResponseCode::NXDomain, &[]), ClientResult::Wrong);
        assert_eq!(judge(ResponseCode::ServFail, &[]), ClientResult::Failed);
        assert_eq!(judge(ResponseCode::Refused, &[right]), ClientResult::Failed);
        assert_eq!(ClientResult::of(&name(7), &Err(io::ErrorKind::TimedOut.into())), ClientResult::Silent);
    }
}
