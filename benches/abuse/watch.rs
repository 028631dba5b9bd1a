//! Memory while an attack goes on.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::setpriority_process;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// The honest client comes first.
const LOWEST: i32 = 19;

/// Returns the most that the kernel holds in the buffers of sockets with this port, in bytes, until `over`; none if `ss` is
/// not there.
pub fn sockets(port: u16, over: &AtomicBool) -> io::Result<Option<u64>> {
    setpriority_process(None, LOWEST)?;
    let filter = format!("sport = :{port}");
    let mut most = None;
    loop {
        let last = over.load(Ordering::Relaxed);
        let Ok(output) = Command::new("ss").args(["-tuamnH", &filter]).output() else { return Ok(None) };
        most = most.max(Some(held(&String::from_utf8_lossy(&output.stdout))));
        if last {
            return Ok(most);
        }
        sleep(PAUSE);
    }
}

/// What waits to be read and what is queued for writing, of all sockets that `ss -m` shows:
/// `skmem:(r<read>,rb..,t<written>,tb..,f..,w<queued for writing>,o..,bl..,d..)`.
fn held(text: &str) -> u64 {
    let fields = text.split("skmem:(").skip(1).flat_map(|rest| rest.split(')').next().unwrap_or_default().split(','));
    let bytes = |field: &str| match field.split_at_checked(1) {
        Some(("r" | "w", number)) => number.parse::<u64>().unwrap_or(0),
        _ => 0,
    };
    fields.map(bytes).sum()
}
