//! Addresses of this machine: a configuration must not name nodens itself as an upstream.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use tracing::warn;

/// Returns this machine's addresses, of interfaces that are up or down; none if the kernel does not list them.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            warn!(%error, "cannot list this machine's addresses");
            return Vec::new();
        }
    };
    let ip = |address: nix::sys::socket::SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::from(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::from(v6.ip())),
        _ => None,
    };
    interfaces.filter_map(|interface| interface.address.and_then(ip)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours() {
        assert!(own_addresses().iter().any(IpAddr::is_loopback));
    }
}
