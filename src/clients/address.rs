//! Addresses in the form that the tables compare.

use std::net::IpAddr;

/// Returns an address as a number; an IPv4 address becomes its IPv4-mapped IPv6 address.
#[inline]
pub fn key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
