//! One nodens gives its place to another, on the same node, without losing a query.
//!
//! ```text
//!  old one                                                 new one
//!     │ ◄──────────────── Hello: protocol, version ──────────── │   over a Unix socket, `[handover] socket`
//!     │ ───────── its sockets, the cache's entries ───────────► │   SCM_RIGHTS: the same sockets, with all that waits there
//!     │                                                         │   starts; from now on both take queries
//!     │ ◄──────────────────────── Ready ─────────────────────── │   every worker turns
//!     │ reads no more: rests, then logs "handed over"           │
//!     │ ─────────── clients' connections, one by one ─────────► │   each once nothing is in flight on it
//!     │ ◄─────────────── the connection stays ────────────────► │
//! ```
//!
//! - The new one gives up before `Ready`: the old one goes on, it never stopped.
//! - The new one is gone while the old one still rests: the connection between them ends, and the old one serves again. A
//!   supervisor holds its end too, so the death of a worker, who is replaced at once, is not the end of the new one.
//! - The new one is told to stop before the old one: it says `Back`, and goes when the old one has said `Resumed`.
//! - They speak other protocols: no handover. The new one binds the same ports beside the old one (SO_REUSEPORT).
//!
//! Modules: [`channel`] messages, [`label`] what a socket is for, [`sockets`] all that a process has of them, [`take`] the new
//! one's side, `handover_server` the old one's and all that comes after, [`door`] the way there.

pub mod channel;
pub mod door;
mod handover_server;
pub mod label;
pub mod sockets;
pub mod take;

use std::time::Duration;

use nix::unistd::geteuid;

/// What both must speak. It counts up with every change of a message or of the form of the cache's entries.
pub const PROTOCOL: u32 = 1;
/// How long either side waits for the next message.
const STEP: Duration = Duration::from_secs(5);
/// How long the new one may take from the last message of the old one until it is ready.
const START: Duration = Duration::from_secs(20);

/// Whether a process of this user may give the sockets or have them: root's, or one of the same user.
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
