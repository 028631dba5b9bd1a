//! Question for an upstream.

use crate::wire::RrType;
use crate::wire::cache_key::CacheKey;
use crate::wire::name::Name;

/// Question for an upstream. Equal questions may share one answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Name in lower case.
    pub name: Name,
    /// Type.
    pub qtype: RrType,
    /// Class.
    pub qclass: u16,
    pub(crate) rd: bool,
    /// Checking disabled (RFC 4035).
    pub cd: bool,
    /// DNSSEC OK (RFC 3225), sent in nodens's own OPT.
    pub dnssec_ok: bool,
    /// Reserved bit of the header, passed through.
    pub z: bool,
}

impl Question {
    /// Returns the question of a cache key.
    pub fn of(key: &CacheKey) -> Self {
        Self {
            name: Name::from_wire(key.name()).unwrap_or_else(|_| Name::root()),
            qtype: key.qtype(),
            qclass: key.qclass(),
            rd: key.rd(),
            cd: key.cd(),
            dnssec_ok: key.dnssec_ok(),
            z: key.z(),
        }
    }
}
