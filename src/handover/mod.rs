//! Handover from one nodens to another on the same node, without losing a query.
//!
//! ```text
//! predecessor                                              successor
//!     │ ◄──────────────── Hello: protocol, version ──────────── │   over a Unix socket, `[handover] socket`
//!     │ ───────── its sockets, the cache's entries ───────────► │   SCM_RIGHTS: the same sockets, with all queries in them
//!     │                                                         │   starts; from now on both take queries
//!     │ ◄──────────────────────── Ready ─────────────────────── │   every worker is running
//!     │ stops reading: standby, then logs "handed over"         │
//!     │ ─────────── clients' connections, one by one ─────────► │   each once nothing is in flight on it
//!     │ ─────────────────────── Settled ──────────────────────► │   accepts a successor of its own from now on
//!     │ ◄─────────────── the connection stays ────────────────► │
//! ```
//!
//! - The successor gives up before `Ready`: the predecessor goes on serving, it never stopped.
//! - The successor is gone while the predecessor is in standby: the connection between them ends, and the predecessor serves
//!   again. A supervisor holds the successor's end of the connection too. So the connection survives the death of a worker
//!   process, which is replaced at once.
//! - The successor is stopped before the predecessor: it sends `Back`, and exits after the predecessor's `Resumed`.
//! - Their protocols differ: no handover. The successor binds the same ports beside the predecessor (SO_REUSEPORT).
//!
//! Modules: [`channel`] messages, [`label`] purpose of a socket, [`sockets`] all sockets of a process, [`take`] the successor's
//! side, `handover_server` the predecessor's side and everything after the handover, [`handle`] access to it.

pub mod channel;
pub mod handle;
mod handover_server;
pub(crate) mod label;
pub(crate) mod sockets;
pub(crate) mod take;

use std::time::Duration;

use nix::unistd::geteuid;

/// Protocol that both sides must use. It is incremented with every change of a message or of the format of cache entries.
pub const PROTOCOL: u32 = 2;
/// Time that either side waits for the next message.
const STEP: Duration = Duration::from_secs(5);
/// Time that the successor has to become ready after the predecessor's last message.
const START: Duration = Duration::from_secs(20);
/// Time that a successor waits for its turn, while the process that serves is still taking over from another one.
const TURN: Duration = Duration::from_secs(10);

/// Returns whether a process of this user may send or receive the sockets: root, or the same user.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_same_user_are_trusted() {
        let own = geteuid().as_raw();
        assert!(is_trusted(0) && is_trusted(own) && !is_trusted(own + 1_000));
    }
}
