//! Who may ask.

use std::net::IpAddr;

use ipnet::IpNet;

/// The list of allowed source addresses.
#[derive(Clone, Debug)]
pub struct Admission {
    allow: Vec<IpNet>,
}

impl Admission {
    /// Admits clients within `allow` and nobody else.
    pub fn new(allow: &[IpNet]) -> Self {
        Self { allow: IpNet::aggregate(&allow.to_vec()) }
    }

    /// Whether `client` may ask. An IPv4-mapped IPv6 address counts as the IPv4 address that it is.
    #[inline]
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.iter().any(|net| net.contains(&client))
    }
}
