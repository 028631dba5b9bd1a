//! The process's own log, on stderr. No writer waits for its reader.
//!
//! ```text
//! tracing, say ──► queue: 1,024 lines, 256 KiB ──► a thread of its own ──► stderr
//!                    └─► full: lost                   └─► fails: lost
//! ```
//!
//! A stalled reader, a full disk or a closed pipe loses log lines, which are counted. It blocks no query, reload, handover
//! or shutdown.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;

use crate::metrics::log::LOST;

/// Limit on queued items; an item is one or more lines.
const MOST_LINES: usize = 1_024;
/// Limit on the bytes of queued lines.
const MOST_BYTES: usize = 256 << 10;
/// Longest wait at exit until queued lines are written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Queue of the writer thread, once it is started.
static QUEUE: OnceLock<SyncSender<LogItem>> = OnceLock::new();
/// Bytes of the queued lines.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Input of the writer thread.
enum LogItem {
    /// One or more whole lines.
    Lines(Vec<u8>),
    /// A request for a notice once all earlier items are written or lost.
    Flushed(SyncSender<()>),
}

/// Starts the thread that writes the lines of [`Lines`] and [`say`]; from then on, panics are logged too.
///
/// # Errors
/// The system provides no thread.
pub(crate) fn start() -> io::Result<()> {
    let (sender, receiver) = sync_channel(MOST_LINES);
    // The supervisor receives signals through a descriptor. A thread that accepts signals would take them from it.
    let before = SigSet::thread_get_mask()?;
    SigSet::all().thread_block()?;
    let write = move || write_all(&mut Stderr, &receiver, &WAITING);
    let thread = std::thread::Builder::new().name("nodens-stderr".into()).spawn(write);
    before.thread_set_mask()?;
    thread?;
    if QUEUE.set(sender).is_ok() {
        std::panic::set_hook(Box::new(tell_of_panic));
    }
    Ok(())
}

/// Writes a line for people, which is not in the format of the log.
pub(crate) fn say(line: &str) {
    match QUEUE.get() {
        Some(queue) => put(queue, format!("{line}\n").into_bytes()),
        // No query is served yet, so blocking is harmless. If stderr is closed, the exit code still reports the failure.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Waits until all lines so far are written, 1 s at most.
pub(crate) fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, is_done) = sync_channel(1);
    // A full queue means that nothing reads stderr.
    if queue.try_send(LogItem::Flushed(done)).is_ok() {
        let _ = is_done.recv_timeout(PATIENCE);
    }
}

/// Writer of whole lines that never fails. `tracing` writes each event to it in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines;

impl Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => put(queue, lines.to_vec()),
            None => count(&LOST.failed),
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(queue: &SyncSender<LogItem>, lines: Vec<u8>) {
    let bytes = lines.len();
    if WAITING.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_BYTES {
        match queue.try_send(LogItem::Lines(lines)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => count(&LOST.full),
            Err(TrySendError::Disconnected(_)) => count(&LOST.failed),
        }
    } else {
        count(&LOST.full);
    }
    WAITING.fetch_sub(bytes, Ordering::Relaxed);
}

fn count(lost: &std::sync::atomic::AtomicU64) {
    lost.fetch_add(1, Ordering::Relaxed);
}

/// Writes items until all senders are gone.
fn write_all(out: &mut impl Write, queue: &Receiver<LogItem>, waiting: &AtomicUsize) {
    let (mut torn, mut lost) = (false, 0_u64);
    while let Ok(item) = queue.recv() {
        match item {
            LogItem::Lines(lines) => {
                let written = write_whole(out, &lines, &mut torn);
                waiting.fetch_sub(lines.len(), Ordering::Relaxed);
                match written {
                    Ok(()) if lost > 0 => {
                        tracing::warn!(lines = lost, "log lines lost");
                        lost = 0;
                    }
                    Ok(()) => {}
                    Err(_) => {
                        count(&LOST.failed);
                        lost += 1;
                    }
                }
            }
            LogItem::Flushed(done) => drop(done.send(())),
        }
    }
}

/// Writes whole lines. An error may leave part of a line behind and sets `torn`; the next lines then begin with a line break.
pub(crate) fn write_whole(out: &mut impl Write, lines: &[u8], torn: &mut bool) -> io::Result<()> {
    if std::mem::replace(torn, true) {
        out.write_all(b"\n")?;
    }
    out.write_all(lines)?;
    out.flush()?;
    *torn = false;
    Ok(())
}

/// The process's stderr. A write waits for room even if another process has made the shared stderr non-blocking.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match io::stderr().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let stderr = io::stderr();
                    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut room, PollTimeout::NONE)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs a panic as one line; the message of the standard library would wait for a reader.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let text = panic.payload();
    let message = text.downcast_ref::<&str>().copied().or_else(|| text.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    tracing::error!(place, thread = thread.name(), trace, "panic: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer with room for a limited number of bytes.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = (self.1 - self.0.len()).min(bytes.len());
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend(&bytes[..room]);
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn after_an_error_a_line_begins_anew() {
        let (mut disk, mut torn) = (Disk(Vec::new(), 8), false);
        assert!(write_whole(&mut disk, b"first\n", &mut torn).is_ok());
        assert!(write_whole(&mut disk, b"second\n", &mut torn).is_err());
        disk.1 = 100;
        assert!(write_whole(&mut disk, b"third\n", &mut torn).is_ok());
        assert_eq!(disk.0, b"first\nse\nthird\n");
    }

    #[test]
    fn a_flush_waits_for_all_earlier_lines() {
        let (sender, receiver) = sync_channel(8);
        let (done, is_done) = sync_channel(1);
        let (waiting, mut disk) = (AtomicUsize::new(6), Disk(Vec::new(), 100));
        sender.send(LogItem::Lines(b"first\n".to_vec())).expect("room");
        sender.send(LogItem::Flushed(done)).expect("room");
        drop(sender);
        write_all(&mut disk, &receiver, &waiting);
        assert_eq!((is_done.try_recv(), waiting.into_inner(), &disk.0[..]), (Ok(()), 0, &b"first\n"[..]));
    }
}
