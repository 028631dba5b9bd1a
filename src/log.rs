//! The log that the process writes of itself, on stderr. Nobody waits for whoever reads it.
//!
//! ```text
//! tracing, say ──► queue: 1,024 lines, 256 KiB ──► a thread of its own ──► stderr
//!                    └─► full: lost                   └─► fails: lost
//! ```
//!
//! A reader that stalls, a full disk or a closed pipe costs lines, which are counted, and never a query, a reload, a
//! successor or an end.

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

/// Lines that wait to be written.
const MOST_LINES: usize = 1_024;
/// Their bytes.
const MOST_BYTES: usize = 256 << 10;
/// How long an end waits until what was said has been written.
const PATIENCE: Duration = Duration::from_secs(1);

/// The queue, once the log has begun.
static QUEUE: OnceLock<SyncSender<Item>> = OnceLock::new();
/// The bytes of the lines in it.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// What the thread is given.
enum Item {
    /// One or more whole lines.
    Lines(Vec<u8>),
    /// All that came before is written, or lost.
    Flushed(SyncSender<()>),
}

/// Begins to write what [`Lines`] and [`say`] are given, panics too.
///
/// # Errors
/// The system gives no thread.
pub fn start() -> io::Result<()> {
    let (sender, receiver) = sync_channel(MOST_LINES);
    // The supervisor hears signals by a descriptor: they must find no thread that would take them.
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

/// Writes a line that is for people, and not in the format of the log.
pub fn say(line: &str) {
    match QUEUE.get() {
        Some(queue) => put(queue, format!("{line}\n").into_bytes()),
        // Nobody serves yet, so nobody is held up. If nobody listens, the exit code still tells.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Waits until all that was said is written, but not for long: it may never be.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, is_done) = sync_channel(1);
    // Where the queue is full nobody reads.
    if queue.try_send(Item::Flushed(done)).is_ok() {
        let _ = is_done.recv_timeout(PATIENCE);
    }
}

/// Takes whole lines, and never fails. One event of `tracing` is written to it in one piece.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

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

fn put(queue: &SyncSender<Item>, lines: Vec<u8>) {
    let bytes = lines.len();
    if WAITING.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_BYTES {
        match queue.try_send(Item::Lines(lines)) {
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

/// Writes what comes, until nobody can send any more.
fn write_all(out: &mut impl Write, queue: &Receiver<Item>, waiting: &AtomicUsize) {
    let (mut torn, mut lost) = (false, 0_u64);
    while let Ok(item) = queue.recv() {
        match item {
            Item::Lines(lines) => {
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
            Item::Flushed(done) => drop(done.send(())),
        }
    }
}

/// Writes whole lines. After an error the next ones begin a new line, since a part of the last may have been written: `torn`
/// keeps that in mind.
pub fn write_whole(out: &mut impl Write, lines: &[u8], torn: &mut bool) -> io::Result<()> {
    if std::mem::replace(torn, true) {
        out.write_all(b"\n")?;
    }
    out.write_all(lines)?;
    out.flush()?;
    *torn = false;
    Ok(())
}

/// The process's stderr. Where somebody has made it non-blocking, for all who share it, this waits all the same.
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

/// A panic as a line of the log, where the standard library's own message would wait for a reader.
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

    /// Has room for so many bytes.
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
    fn whoever_waits_for_the_log_waits_for_what_came_before() {
        let (sender, receiver) = sync_channel(8);
        let (done, is_done) = sync_channel(1);
        let (waiting, mut disk) = (AtomicUsize::new(6), Disk(Vec::new(), 100));
        sender.send(Item::Lines(b"first\n".to_vec())).expect("room");
        sender.send(Item::Flushed(done)).expect("room");
        drop(sender);
        write_all(&mut disk, &receiver, &waiting);
        assert_eq!((is_done.try_recv(), waiting.into_inner(), &disk.0[..]), (Ok(()), 0, &b"first\n"[..]));
    }
}
