//! The firewall of the node's addresses: one table of nftables, which belongs to nodens.
//!
//! It excludes queries from connection tracking. Connection tracking costs an entry for each query, two queries race for one entry
//! when a stub resolver asks for A and AAAA at once, and a full table drops packets. nodens has no use for it, since these packets'
//! addresses are not translated. Both directions are excluded: queries on arrival or when the node's own processes send them,
//! and responses when they are sent.
//!
//! With a fallback it is a dead-man's switch. While nodens serves, it renews elements that expire in the sets of addresses that are
//! alive. A query to an address that is not alive goes to the fallback, without any process:
//!
//! ```text
//! prerouting, output (raw)    alive: untracked, and accepted        else: mark the packet, fallback as destination
//! prerouting_mark, output_mark (after tracking began)               mark of the packet to its connection
//! ... NAT of kube-proxy, from the fallback's address to a pod ...
//! masquerade                  queries of the node's own processes, whose source only this node knows
//! postrouting, input (last)   responses in marked connections: the address that was asked as source
//! ```
//!
//! If the fallback is the address itself (the ClusterIP of kube-dns), nothing is written: tracked queries are kube-proxy's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kernel_table::{KernelRule, KernelTable, rules};
use super::nft::{Nft, Set, Table};
use super::rules::{ALIVE_IPV4, ALIVE_IPV6, Fallback, TABLE, set_of, table};
use crate::config::address::DNS_PORT;

/// Time after which an address counts as dead if it is not renewed.
const EXPIRY: Duration = Duration::from_millis(800);

pub(super) struct Firewall {
    table: Table,
    /// The same without the fallback, for kernels that cannot have it.
    plain: Table,
    /// Addresses that have a fallback, each with its set.
    switched: Vec<(Set, IpAddr)>,
    /// True if the kernel refused the fallback.
    refused: AtomicBool,
    /// The table as the kernel listed it just after it was written, if this is not what was written: a kernel that describes rules
    /// in another way. Without this, nodens would write the table again and again.
    dialect: Mutex<Option<KernelTable>>,
}

/// Numbers of packets that the table has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PacketCounts {
    /// Packets to the addresses that were excluded from tracking.
    pub queries: u64,
    /// Packets from the addresses that were excluded from tracking.
    pub responses: u64,
    /// Packets to the addresses that were sent to the fallback.
    pub fallback: u64,
}

impl Firewall {
    /// Creates the table for queries to these addresses and ports.
    pub(super) fn new(listen: &[SocketAddr], fallback: Fallback<'_>) -> Self {
        let mut switched: Vec<_> = listen
            .iter()
            .filter(|address| fallback.of(**address).is_some())
            .map(|address| (set_of(address.ip()), address.ip()))
            .collect();
        switched.dedup();
        Self {
            table: table(listen, fallback),
            plain: table(listen, Fallback::default()),
            switched,
            refused: AtomicBool::new(false),
            dialect: Mutex::default(),
        }
    }

    /// Creates the table with a fallback for those addresses for which the kernel's table has one.
    pub(super) fn as_written(listen: &[SocketAddr], servers: &[IpAddr]) -> io::Result<Self> {
        let found = rules(&mut Nft::open()?, TABLE)?;
        let has_fallback = |address: &SocketAddr| {
            let comment = format!(" fallback of {address}: ");
            found.iter().any(|rule| rule.comment.contains(&comment))
        };
        let shared = listen.iter().filter(|address| address.port() == DNS_PORT && !has_fallback(address));
        let shared: Vec<IpAddr> = shared.map(SocketAddr::ip).collect();
        Ok(Self::new(listen, Fallback { servers, shared: &shared }))
    }

    fn wanted(&self) -> &Table {
        if self.has_fallback() { &self.table } else { &self.plain }
    }

    /// Returns whether any address has a fallback, and the kernel accepts it.
    pub(super) fn has_fallback(&self) -> bool {
        !self.switched.is_empty() && !self.refused.load(Ordering::Relaxed)
    }

    /// Reports whether the kernel's table is as configured: chains, hooks, policies and rules.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        let found = KernelTable::read(&mut Nft::open()?, TABLE)?;
        Ok(found.is(self.wanted()) || self.dialect().as_ref() == Some(&found))
    }

    /// Writes the table in one transaction. Addresses that are alive stay so. If a predecessor `serves` that may not renew them, all are alive
    /// at first.
    ///
    /// A kernel that lacks a part of the fallback gets the table without it, with a warning.
    pub(super) fn put(&self, serves: bool) -> io::Result<()> {
        let mut nft = Nft::open()?;
        let alive = if self.has_fallback() && (serves || is_alive(&mut nft)?) { &self.switched[..] } else { &[] };
        match nft.replace(self.wanted(), alive, EXPIRY) {
            Err(error) if self.has_fallback() && is_refusal(&error) => {
                nft.replace(&self.plain, &[], EXPIRY)?;
                self.refused.store(true, Ordering::Relaxed);
                tracing::warn!(%error, "the kernel refuses the fallback of [node]; serving without it");
            }
            result => result?,
        }
        *self.dialect() = KernelTable::read(&mut nft, TABLE).ok().filter(|found| !found.is(self.wanted()));
        Ok(())
    }

    /// Reports whether the kernel has the table without its fallback, because it refuses that.
    pub(super) fn is_plain(&self) -> io::Result<bool> {
        Ok(self.has_fallback() && KernelTable::read(&mut Nft::open()?, TABLE)?.is(&self.plain))
    }

    fn dialect(&self) -> MutexGuard<'_, Option<KernelTable>> {
        self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the addresses to renew while nodens serves.
    pub(super) fn switched(&self) -> Vec<(Set, IpAddr)> {
        self.switched.clone()
    }
}

/// Reports whether the kernel lacks a part of the table. After other errors, such as too little memory, it may accept the table later.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL))
}

/// Marks addresses as alive until the expiry.
pub(super) fn renew(nft: &mut Nft, addresses: &[(Set, IpAddr)]) -> io::Result<()> {
    nft.renew(TABLE, addresses, Some(EXPIRY))
}

/// Marks addresses as dead at once.
pub(super) fn end(nft: &mut Nft, addresses: &[(Set, IpAddr)]) -> io::Result<()> {
    nft.renew(TABLE, addresses, None)
}

/// Returns whether any address is alive.
pub(super) fn is_alive(nft: &mut Nft) -> io::Result<bool> {
    Ok(nft.has_elements(TABLE, ALIVE_IPV4)? || nft.has_elements(TABLE, ALIVE_IPV6)?)
}

/// Removes the table; returns whether it existed.
pub(super) fn remove() -> io::Result<bool> {
    Nft::open()?.remove(TABLE)
}

/// Returns the packets that the table has counted.
pub(super) fn counts() -> io::Result<PacketCounts> {
    let count = |found: &[KernelRule], what: &str| {
        found.iter().filter(|rule| rule.comment.contains(what)).map(|rule| rule.packets).sum()
    };
    let found = rules(&mut Nft::open()?, TABLE)?;
    Ok(PacketCounts {
        queries: count(&found, " queries to "),
        responses: count(&found, " responses from "),
        fallback: count(&found, " fallback of "),
    })
}
