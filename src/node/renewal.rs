//! Renewal of the addresses that are alive: see [`firewall`](super::firewall).

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::firewall::{end, is_alive, renew};
use super::nft::{Nft, Set};

/// Interval between renewals: a fraction of the time after which an address counts as dead.
const EVERY: Duration = Duration::from_millis(200);

/// Thread that renews the addresses. Without it they expire, and the kernel sends their queries to the fallback.
pub(crate) struct Renewal {
    stop: SyncSender<Successor>,
    thread: Option<JoinHandle<()>>,
}

/// Whether another process goes on with the renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Successor {
    Exists,
    None,
}

impl Renewal {
    /// Renews the addresses while `is_responsive` returns true.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(super) fn start(
        addresses: Vec<(Set, IpAddr)>,
        is_responsive: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = sync_channel(1);
        let run = move || {
            let mut nft = None;
            // A repeated error is reported once. Without the table there is nothing to renew; it is about to be repaired.
            let mut is_told = false;
            loop {
                if is_responsive() {
                    let renewed = open(&mut nft).and_then(|nft| renew(nft, &addresses));
                    match renewed {
                        Ok(()) => is_told = false,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => {
                            nft = None;
                            if !std::mem::replace(&mut is_told, true) {
                                tracing::warn!(%error, "cannot tell the kernel that nodens serves: its fallback answers");
                            }
                        }
                    }
                }
                match stopped.recv_timeout(EVERY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(Successor::None) => {
                        // An error leaves the expiry to do it.
                        let _ = open(&mut nft).and_then(|nft| end(nft, &addresses));
                        return;
                    }
                    Ok(Successor::Exists) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = Builder::new().name("renewal".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the renewal. Without a successor the fallback answers from now on.
    pub(crate) fn stop(mut self, successor: Successor) {
        let _ = self.stop.send(successor);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Reports whether any other process renews addresses. Waits for up to three renewals; this process must not renew.
pub(super) fn is_renewed() -> bool {
    let deadline = Instant::now() + 3 * EVERY;
    loop {
        match Nft::open().and_then(|mut nft| is_alive(&mut nft)) {
            Ok(true) => return true,
            Ok(false) if Instant::now() < deadline => thread::sleep(EVERY / 10),
            Ok(false) | Err(_) => return false,
        }
    }
}

fn open(nft: &mut Option<Nft>) -> io::Result<&mut Nft> {
    match nft {
        Some(nft) => Ok(nft),
        None => Ok(nft.insert(Nft::open()?)),
    }
}
