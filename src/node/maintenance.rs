//! Maintenance of the node's network: on a notification of the kernel, and every minute.

use std::future::pending;
use std::io;
use std::time::Duration;

use nix::sys::socket::SockProtocol;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::error::NodeError;
use super::netlink::Netlink;
use super::{NodeNetwork, Repaired, addresses, nft};

/// Interval between checks without a notification of the kernel.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Wait after a notification for further ones: they come in groups.
const SETTLE: Duration = Duration::from_millis(50);
/// Minimum interval between repairs, to avoid a fight with another controller.
const MEND_PAUSE: Duration = Duration::from_secs(1);

impl NodeNetwork {
    /// Reconciles in a loop, except while `is_paused`, and reports each repair and each new error. A table that is written again has all
    /// addresses alive if the server `is_responsive`. Never returns.
    pub(crate) async fn run_maintenance(
        &self,
        mut is_paused: watch::Receiver<bool>,
        is_responsive: impl Fn() -> bool,
        mut tell: impl FnMut(Result<Repaired, NodeError>),
    ) {
        let changes = [
            listen(SockProtocol::NetlinkRoute, addresses::GROUPS),
            listen(SockProtocol::NetlinkNetFilter, nft::GROUPS),
        ];
        let [addresses, rules] = changes;
        // A repeated error is reported once.
        let mut told = String::new();
        loop {
            is_over(&mut is_paused).await;
            // The first pass needs no notification: the predecessor may have restored its own configuration since `set_up`.
            let mut repaired = Repaired::default();
            let repaired = self.put_addresses(&mut repaired).and_then(|()| {
                let failed = |error| NodeError::of(error, "write the table nodens of nftables");
                Ok(Repaired { firewall: self.put_firewall(is_responsive()).map_err(failed)?, ..repaired })
            });
            let trouble = repaired.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let is_news = match &repaired {
                Ok(repaired) => !repaired.is_nothing(),
                Err(_) => trouble != told,
            };
            told = trouble;
            if is_news {
                tell(repaired);
                tokio::time::sleep(MEND_PAUSE).await;
            }
            tokio::select! {
                () = changed(addresses.as_ref(), |_| true) => tokio::time::sleep(SETTLE).await,
                () = changed(rules.as_ref(), nft::is_of_rules) => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Resolves when the pause is over.
pub(super) async fn is_over(is_paused: &mut watch::Receiver<bool>) {
    // An error means that the whole server is gone.
    let _ = is_paused.wait_for(|is_paused| !is_paused).await;
}

/// Subscribes to notifications; returns `None` if the kernel refuses.
fn listen(protocol: SockProtocol, groups: u32) -> Option<AsyncFd<Netlink>> {
    Netlink::listening(protocol, groups).and_then(watched).ok()
}

#[expect(deprecated, reason = "its successor is unsafe, for descriptors that change; this one stays the same")]
fn watched(socket: Netlink) -> io::Result<AsyncFd<Netlink>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Resolves after a notification of a wanted message type.
async fn changed(socket: Option<&AsyncFd<Netlink>>, is_wanted: fn(u16) -> bool) {
    let Some(socket) = socket else { return pending().await };
    loop {
        match socket.readable().await {
            Ok(mut ready) => {
                let any = ready.get_inner().clear(is_wanted);
                ready.clear_ready();
                if any {
                    return;
                }
            }
            Err(_) => return pending().await,
        }
    }
}
