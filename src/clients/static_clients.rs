//! Clients that the configuration names by their network: machines that are not pods, and nodes without a Kubernetes API.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::address::key;
use super::client::{Client, ClientKind, Field, Job, Trust};
use crate::config;

/// Networks and their clients; the longest prefix wins.
#[derive(Debug, Default)]
pub struct StaticClients {
    /// The prefix lengths in use, the longest first.
    lengths: Vec<u32>,
    clients: HashMap<(u32, u128), Arc<Client>, RandomState>,
}

/// Bits of an address in the form of [`key`].
const BITS: u32 = 128;
/// Bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u32 = 96;

impl StaticClients {
    /// Builds the table from the configuration's `[[client]]`s.
    pub fn new(clients: &[config::ClientConfig]) -> Self {
        let mut fixed = Self::default();
        for client in clients {
            let length = length(&client.source);
            fixed.lengths.push(length);
            fixed.clients.insert((length, masked(key(client.source.addr()), length)), Arc::new(made(client)));
        }
        fixed.lengths.sort_unstable_by(|a, b| b.cmp(a));
        fixed.lengths.dedup();
        fixed
    }

    /// Returns the client of the longest network that contains the address.
    #[inline]
    pub fn identify(&self, address: IpAddr) -> Option<&Arc<Client>> {
        let address = key(address);
        self.lengths.iter().find_map(|length| self.clients.get(&(*length, masked(address, *length))))
    }
}

fn made(client: &config::ClientConfig) -> Client {
    let fields =
        [(Field::ProjectPath, &client.project), (Field::JobName, &client.job), (Field::RunnerName, &client.runner)];
    let mut job = Job::default();
    for (field, value) in fields {
        if let Some(value) = value {
            job.note(field, value, Trust::Configuration);
        }
    }
    Client {
        kind: ClientKind::Configured,
        name: client.name.as_str().into(),
        namespace: client.namespace.as_deref().map(Into::into),
        uid: None,
        labels: Box::default(),
        more_labels: false,
        job: Some(job).filter(|job| !job.is_empty()),
        memo: Default::default(),
        search: None,
    }
}

fn length(net: &IpNet) -> u32 {
    u32::from(net.prefix_len()) + if net.addr().is_ipv4() { MAPPED } else { 0 }
}

fn masked(address: u128, length: u32) -> u128 {
    // A prefix length of 0 would shift by all 128 bits, which overflows.
    address & u128::MAX.checked_shl(BITS - length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let client = |source: &str, name: &str| config::ClientConfig {
            source: source.parse().expect(source),
            name: name.to_owned(),
            namespace: None,
            project: None,
            job: None,
            runner: None,
        };
        let fixed = StaticClients::new(&[
            client("10.0.0.0/8", "ten"),
            client("10.1.0.0/16", "one"),
            client("10.1.2.3/32", "host"),
            client("fd00::/8", "private"),
            client("::/0", "rest"),
        ]);
        for (address, name) in [
            ("10.9.9.9", "ten"),
            ("10.1.9.9", "one"),
            ("10.1.2.3", "host"),
            ("::ffff:10.1.2.3", "host"),
            ("fd12::1", "private"),
            ("2001:db8::1", "rest"),
        ] {
            let identity = fixed.identify(address.parse().expect(address)).map(|client| &*client.name);
            assert_eq!(identity, Some(name), "{address}");
        }
        let none = StaticClients::new(&[client("0.0.0.0/0", "v4")]);
        assert!(none.identify("10.0.0.1".parse().expect("v4")).is_some());
        assert!(none.identify("2001:db8::1".parse().expect("v6")).is_none(), "0.0.0.0/0 is IPv4 only");
    }
}
