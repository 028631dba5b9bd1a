//! The node itself: one fixed address that every node has, and queries to it past connection tracking.
//!
//! ```text
//! start ──► link ──► addresses ──► firewall ──► (listeners are bound)
//!             whoever takes something away: the kernel tells, and it is put back at once; looked at every minute anyway
//! stop  ──► firewall ──► addresses, link: what nodens has put there, nothing else
//! ```
//!
//! - `addresses` links and addresses, over rtnetlink;
//! - `firewall` which rules there are, `nft` how they are said to the kernel, over nfnetlink;
//! - `netlink` what both speak.
//!
//! A process that dies leaves everything in place: its successor finds it as it wants it. `nodens node cleanup` removes
//! what is left where there is no successor.

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::socket::SockProtocol;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::addresses::{Addresses, Link, Present};
pub use self::error::NodeError;
use self::firewall::Firewall;
pub use self::firewall::Untracked;
use self::netlink::Netlink;
use crate::config::node::Firewall as PendingQuery;
use crate::config::{Config, Node as Settings};

mod addresses;
mod error;
mod firewall;
mod netlink;
mod nft;

/// How often everything is looked at, if the kernel tells of no change.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long one waits for changes to settle: they come in groups.
const SETTLE: Duration = Duration::from_millis(50);
/// Not more often than this is anything put back: somebody else may want it gone.
const MEND_PAUSE: Duration = Duration::from_secs(1);

/// What is there of what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The link, if there is one.
    pub link: Option<String>,
    /// Each address that is wanted: whether it is on that link, and whether nodens has put it there.
    pub addresses: Vec<(IpAddr, bool, bool)>,
    /// Whether the table is as it is to be; none if there is to be none, or the kernel does not say.
    pub firewall: Option<bool>,
    /// What the table has counted.
    pub untracked: Untracked,
}

impl State {
    /// Whether all of it is there.
    pub fn is_good(&self) -> bool {
        self.addresses.iter().all(|(_, there, _)| *there) && self.firewall != Some(false)
    }
}

/// The node as it is to be.
pub struct Node {
    settings: Settings,
    firewall: Option<Firewall>,
}

/// What was put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether the table was.
    pub firewall: bool,
}

impl Node {
    /// What the configuration wants of the node; none if nothing.
    pub fn of(config: &Config) -> Option<Self> {
        let settings = config.node.clone()?;
        let firewall = (settings.firewall == PendingQuery::Nft).then(|| Firewall::new(&settings.listen));
        Some(Self { settings, firewall })
    }

    /// Makes the node as it is to be. What is there already stays as it is.
    ///
    /// # Errors
    /// An address cannot be had. Without the firewall the addresses serve as well: that is only a warning in the log.
    pub fn set_up(&self) -> Result<Mended, NodeError> {
        let mended = Mended { addresses: self.put_addresses()?, firewall: false };
        match self.put_firewall() {
            Ok(firewall) => Ok(Mended { firewall, ..mended }),
            Err(error) => {
                let why = NodeError::of(error, "write the table nodens of nftables");
                tracing::warn!(%why, "cannot exclude queries from connection tracking; serving without the exclusion");
                Ok(mended)
            }
        }
    }

    fn put_addresses(&self) -> Result<Vec<IpAddr>, NodeError> {
        let open = |error| NodeError::of(error, "ask the kernel for its addresses");
        let mut addresses = Addresses::open().map_err(open)?;
        let link = addresses.link(&self.settings.interface)?;
        let (links, present) = (addresses.links().map_err(open)?, addresses.present().map_err(open)?);
        let mut put = Vec::new();
        for ip in &self.settings.addresses {
            match present.iter().find(|present| present.ip == *ip) {
                Some(there) if there.link == link.index => {}
                Some(there) => return Err(elsewhere(there, &links, &link)),
                None => {
                    let failed = |error| NodeError::of(error, format!("put {ip} on the link {}", link.name));
                    addresses.add(*ip, &link).map_err(failed)?;
                    put.push(*ip);
                }
            }
        }
        Ok(put)
    }

    /// Whether the table had to be written.
    fn put_firewall(&self) -> io::Result<bool> {
        let Some(firewall) = &self.firewall else { return Ok(false) };
        let missing = !firewall.is_there()?;
        if missing {
            firewall.put()?;
        }
        Ok(missing)
    }

    /// Takes away what nodens has put there. All of it is tried, whatever fails.
    ///
    /// # Errors
    /// The first thing that could not be taken away.
    pub fn tear_down(&self) -> Result<Vec<String>, NodeError> {
        remove(&self.settings.addresses)
    }

    /// What is there.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn state(&self) -> Result<State, NodeError> {
        let open = |error| NodeError::of(error, "ask the kernel for its addresses");
        let mut addresses = Addresses::open().map_err(open)?;
        let (links, present) = (addresses.links().map_err(open)?, addresses.present().map_err(open)?);
        let link_of = |present: &Present| links.iter().find(|link| link.index == present.link);
        let wanted = self.settings.interface.name();
        let mut found = None;
        let look = |ip: &IpAddr| {
            let there =
                present.iter().find(|present| present.ip == *ip).and_then(|there| Some((there, link_of(there)?)));
            let there = there.filter(|(_, link)| wanted.is_none_or(|wanted| wanted == link.name));
            if let Some((_, link)) = &there {
                found.get_or_insert_with(|| link.name.clone());
            }
            (*ip, there.is_some(), there.is_some_and(|(there, link)| there.is_own(link)))
        };
        let addresses = self.settings.addresses.iter().map(look).collect();
        Ok(State {
            link: found,
            addresses,
            firewall: self.firewall.as_ref().and_then(|firewall| firewall.is_there().ok()),
            untracked: firewall::untracked().unwrap_or_default(),
        })
    }

    /// Puts back what somebody takes away, and tells of it, for ever.
    pub async fn tend(&self, mut tell: impl FnMut(Result<Mended, NodeError>)) {
        let changes = [
            listen(SockProtocol::NetlinkRoute, addresses::GROUPS),
            listen(SockProtocol::NetlinkNetFilter, nft::GROUPS),
        ];
        let [addresses, rules] = changes;
        // What cannot be mended is told once, not every minute.
        let mut told = String::new();
        loop {
            // At first too: the one that served before may have put its own back since this one set the node up.
            let mended = self.put_addresses().and_then(|addresses| {
                let failed = |error| NodeError::of(error, "write the table nodens of nftables");
                Ok(Mended { addresses, firewall: self.put_firewall().map_err(failed)? })
            });
            let trouble = mended.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let is_news = match &mended {
                Ok(mended) => *mended != Mended::default(),
                Err(_) => trouble != told,
            };
            told = trouble;
            if is_news {
                tell(mended);
                tokio::time::sleep(MEND_PAUSE).await;
            }
            tokio::select! {
                () = changed(addresses.as_ref()) => tokio::time::sleep(SETTLE).await,
                () = changed(rules.as_ref()) => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// What the table has counted so far; nothing if there is none.
pub fn untracked() -> Untracked {
    firewall::untracked().unwrap_or_default()
}

/// The addresses that nodens has put on this node, as far as they can be told.
///
/// # Errors
/// The kernel does not say.
pub fn own_addresses() -> Result<Vec<IpAddr>, NodeError> {
    let failed = |error| NodeError::of(error, "ask the kernel for its addresses");
    let mut tables = Addresses::open().map_err(failed)?;
    let links = tables.links().map_err(failed)?;
    let is_own = |present: &Present| links.iter().any(|link| present.is_own(link));
    Ok(tables.present().map_err(failed)?.into_iter().filter(is_own).map(|present| present.ip).collect())
}

/// Removes what nodens has put on the node: the table, its own link, and those of the addresses that it has put elsewhere; without
/// addresses, all that it can tell to be its own. Returns what was removed.
///
/// # Errors
/// The first thing that could not be removed; the others are.
pub fn remove(addresses: &[IpAddr]) -> Result<Vec<String>, NodeError> {
    let (mut removed, mut failed) = (Vec::new(), None);
    let mut note = |what: String, result: io::Result<bool>| match result {
        Ok(true) => removed.push(what),
        Ok(false) => {}
        Err(error) => drop(failed.get_or_insert(NodeError::of(error, format!("remove {what}")))),
    };
    // Before the addresses: what they are translated to without nodens must be tracked.
    note(format!("the table {} of nftables", firewall::TABLE), firewall::remove().or_else(not_there));
    let mut tables = Addresses::open().map_err(|error| NodeError::of(error, "ask the kernel for its addresses"))?;
    let links = tables.links().map_err(|error| NodeError::of(error, "list links"))?;
    for present in tables.present().map_err(|error| NodeError::of(error, "list addresses"))? {
        let Some(link) = links.iter().find(|link| link.index == present.link) else { continue };
        let wanted = addresses.is_empty() || addresses.contains(&present.ip);
        if wanted && present.is_own(link) && !link.is_own() {
            note(format!("{} from the link {}", present.ip, link.name), tables.remove(&present).map(|()| true));
        }
    }
    if let Some(link) = links.iter().find(|link| link.is_own()) {
        note(format!("the link {}", link.name), tables.remove_link(link).map(|()| true));
    }
    failed.map_or(Ok(removed), Err)
}

/// A kernel without nftables has no table of it.
fn not_there(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(false),
        _ => Err(error),
    }
}

fn elsewhere(there: &Present, links: &[Link], wanted: &Link) -> NodeError {
    let link = links.iter().find(|link| link.index == there.link);
    NodeError::Elsewhere {
        address: there.ip,
        link: link.map_or_else(|| there.link.to_string(), |link| link.name.clone()),
        wanted: wanted.name.clone(),
    }
}

/// Hears what happens; none if the kernel does not tell.
fn listen(protocol: SockProtocol, groups: u32) -> Option<AsyncFd<Netlink>> {
    Netlink::listening(protocol, groups).and_then(watched).ok()
}

#[expect(deprecated, reason = "its successor is unsafe, for descriptors that change; this one stays the same")]
fn watched(socket: Netlink) -> io::Result<AsyncFd<Netlink>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Resolves when something has happened.
async fn changed(socket: Option<&AsyncFd<Netlink>>) {
    let Some(socket) = socket else { return pending().await };
    loop {
        match socket.readable().await {
            Ok(mut ready) => {
                let any = ready.get_inner().clear();
                ready.clear_ready();
                if any {
                    return;
                }
            }
            Err(_) => return pending().await,
        }
    }
}
