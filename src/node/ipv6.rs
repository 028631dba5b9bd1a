//! Nodes without IPv6: the addresses of this family are left out.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::config::Config;
use crate::config::node::Interface;

/// Settings of IPv6, by link. `all` holds for each link, `default` for links that are made later.
const SETTINGS: &str = "/proc/sys/net/ipv6/conf";
/// Name of the dummy link.
const DUMMY: &str = "nodens";

/// Leaves out the IPv6 addresses of `[node]`, the listeners on them and the fallback for them, if IPv6 is switched off on the link
/// that is to have them and an IPv4 address remains. Returns these addresses.
pub(crate) fn leave_out(config: &mut Config) -> Vec<IpAddr> {
    let Some(node) = &mut config.node else { return Vec::new() };
    let is_mixed = node.addresses.iter().any(IpAddr::is_ipv4) && node.addresses.iter().any(IpAddr::is_ipv6);
    if !is_mixed || !is_off(Path::new(SETTINGS), &node.interface) {
        return Vec::new();
    }
    let (addresses, left_out) = node.addresses.iter().partition(|ip| ip.is_ipv4());
    node.addresses = addresses;
    node.listen.retain(|address| address.is_ipv4());
    node.fallback.retain(IpAddr::is_ipv4);
    config.server.listen.retain(|address| !left_out.contains(&address.ip()));
    left_out
}

/// Returns whether IPv6 is switched off for a link: by the kernel's command line, for all links, or for this one.
fn is_off(settings: &Path, interface: &Interface) -> bool {
    if !settings.exists() {
        return true;
    }
    let set =
        |name: &str| fs::read_to_string(settings.join(name).join("disable_ipv6")).ok().map(|text| text.trim() != "0");
    let own = match interface.name() {
        Some(name) => set(name),
        None => set(DUMMY).or_else(|| set("default")),
    };
    set("all").unwrap_or(false) || own.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_of_the_link_decides() {
        let dir = std::env::temp_dir().join(format!("nodens-ipv6-{}", std::process::id()));
        let settings = dir.as_path();
        fs::create_dir_all(settings).expect("a directory");
        assert!(is_off(&settings.join("none"), &Interface::Auto), "no IPv6 in the kernel");
        let write = |name: &str, value: &str| {
            fs::create_dir_all(settings.join(name)).expect("a directory");
            fs::write(settings.join(name).join("disable_ipv6"), value).expect("writes");
        };
        ["all", "default", "eth0"].iter().for_each(|name| write(name, "0\n"));
        assert!(!is_off(settings, &Interface::Auto));
        write("default", "1\n");
        assert!(is_off(settings, &Interface::Dummy) && !is_off(settings, &Interface::Named("eth0".to_owned())));
        write(DUMMY, "0\n");
        assert!(!is_off(settings, &Interface::Auto), "the link exists");
        write("all", "1\n");
        assert!(is_off(settings, &Interface::Named("eth0".to_owned())));
        fs::remove_dir_all(settings).expect("removes");
    }
}
