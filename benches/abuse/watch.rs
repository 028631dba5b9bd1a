//! Memory during an attack: that of the sockets is recorded, that of the process limited.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::setpriority_process;

use crate::processes::{RESIDENT, memory};

/// Pause between two checks.
const PAUSE: Duration = Duration::from_millis(250);
/// Lowest priority, so that the honest client comes first.
const LOWEST: i32 = 19;

/// Resident memory of the server, in KiB, at which the attack ends, because the next attack needs the machine.
const ENOUGH: u64 = 1 << 20;

/// Result of watching.
pub struct Watched {
    /// Peak kernel memory in the buffers of the port's sockets, in bytes; `None` if `ss` is not installed.
    pub sockets: Option<u64>,
    /// True if the attack was ended early, because the server had grown to [`ENOUGH`].
    pub ended_early: bool,
}

/// Watches the sockets of `port` and the memory of the process group until `over` is set. Sets `over` if the server has
/// grown too large.
pub fn watch(port: u16, group: u32, over: &AtomicBool) -> io::Result<Watched> {
    setpriority_process(None, LOWEST)?;
    let filter = format!("sport = :{port}");
    let mut watched = Watched { sockets: None, ended_early: false };
    loop {
        let last = over.load(Ordering::Relaxed);
        if let Ok(output) = Command::new("ss").args(["-tuamnH", &filter]).output() {
            watched.sockets = watched.sockets.max(Some(held(&String::from_utf8_lossy(&output.stdout))));
        }
        if last {
            return Ok(watched);
        }
        if memory(group, RESIDENT) > ENOUGH {
            watched.ended_early = true;
            over.store(true, Ordering::Relaxed);
        }
        sleep(PAUSE);
    }
}

/// Returns the bytes that wait to be read or are queued for writing, summed over all sockets that `ss -m` shows:
/// `skmem:(r<read>,rb..,t<written>,tb..,f..,w<queued for writing>,o..,bl..,d..)`.
fn held(text: &str) -> u64 {
    let fields = text.split("skmem:(").skip(1).flat_map(|rest| rest.split(')').next().unwrap_or_default().split(','));
    let bytes = |field: &str| match field.split_at_checked(1) {
        Some(("r" | "w", number)) => number.parse::<u64>().unwrap_or(0),
        _ => 0,
    };
    fields.map(bytes).sum()
}
