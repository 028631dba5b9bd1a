//! Chains of other programs that drop what they do not accept: a rule of nodens cannot accept a packet for them.
//!
//! nftables asks each base chain of a hook, and each of them has to accept a packet. `iptables-nft` has its chains there too. Only
//! the policies are read: a rule of such a chain may well accept the queries.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::kernel_table::{chains, dormant};
use super::nft::{Hook, INET, Nft};
use super::rules::TABLE;

/// Policy of a chain that drops packets that no rule decides (NF_DROP).
const DROP: u32 = 0;
/// Families whose packets IP addresses have, with their names (NFPROTO_).
const FAMILIES: [(u8, &str); 4] = [(INET, "inet"), (2, "ip"), (7, "bridge"), (10, "ip6")];

/// A chain of another table with the policy drop, on the path of queries or of responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DroppingChain {
    /// Family, table and name.
    name: String,
    /// Direction of the packets that it has to accept.
    direction: &'static str,
    /// Addresses and ports of these packets.
    listen: Vec<SocketAddr>,
}

impl fmt::Display for DroppingChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, direction, listen } = self;
        let listen = listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "{name} has the policy drop: one of its rules must accept UDP and TCP {direction} {listen}")
    }
}

/// Returns the chains that may drop queries to these addresses, or responses from them. Without nftables there are none.
pub(super) fn dropping_chains(listen: &[SocketAddr]) -> Vec<DroppingChain> {
    read(listen).unwrap_or_default()
}

fn read(listen: &[SocketAddr]) -> io::Result<Vec<DroppingChain>> {
    let mut nft = Nft::open()?;
    let (asleep, chains) = (dormant(&mut nft, 0)?, chains(&mut nft, 0)?);
    let of = |family: u8| match family {
        2 => listen.iter().copied().filter(SocketAddr::is_ipv4).collect(),
        10 => listen.iter().copied().filter(SocketAddr::is_ipv6).collect(),
        _ => listen.to_vec(),
    };
    let found = chains.into_iter().filter_map(|chain| {
        let (family, family_name) = FAMILIES.into_iter().find(|(family, _)| *family == chain.family)?;
        let direction = match chain.hook {
            hook if hook == Hook::Input as u32 => "to",
            hook if hook == Hook::Output as u32 => "from",
            _ => return None,
        };
        let is_own = family == INET && chain.table == TABLE;
        let is_asleep = asleep.iter().any(|(other, table)| *other == family && *table == chain.table);
        let listen = of(family);
        (chain.policy == DROP && !is_own && !is_asleep && !listen.is_empty()).then(|| DroppingChain {
            name: format!("{family_name} {} {}", chain.table, chain.name),
            direction,
            listen,
        })
    });
    Ok(found.collect())
}
