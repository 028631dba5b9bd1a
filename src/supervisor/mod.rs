//! `nodens serve` is two processes: a supervisor, which serves nothing, and a worker process, which serves everything.
//!
//! ```text
//! supervisor ── starts ──► worker        the worker binds the sockets, and gives the supervisor other descriptors of them
//!     │  holds the sockets   ✗           dies: by a signal, a panic, lack of memory
//!     └───── starts ──► worker           gets the same sockets: queries that arrived meanwhile wait there
//! ```
//!
//! The supervisor has no thread besides the one that writes its log, reads nothing from the network and parses nothing, so
//! little in it can fail. If the supervisor itself dies, the worker sees the end of [`link`], and stops.
//!
//! The next worker serves the configuration that was in force when the last worker died, even if the file has changed. The
//! supervisor keeps the sources of two configurations: the one in force and the start configuration. From the latter the
//! next worker takes the keys that only a start reads
//! ([`Config::keep_start_only`](crate::config::Config::keep_start_only)). The start is that of `serve`, or of the `serve`
//! that took over by a handover.
//!
//! After a worker that ended before it served, the next one starts with the current configuration file, including these
//! keys, or with the configuration last in force if the file is invalid. If that worker does not serve either, the next one
//! starts with the configuration last in force, and so on in turn, with pauses. So a corrected file ends a series of failed
//! starts. The file's configuration is in force, and is the start configuration, once a worker serves it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use self::link::Configs;
use crate::handover::channel::{Channel, HandoverMessage, Replaces};
use crate::handover::sockets::HeldSockets;
use crate::server::GRACE;
use crate::upstream::server_status::wall_clock;

pub(crate) mod link;

/// Argument after those of `serve` that makes this process the worker.
pub(crate) const WORKER: &str = "--worker";
/// Time of service after which a worker's death is no part of a crash loop.
const LONG: Duration = Duration::from_secs(1);
/// Pause after the second death in a row; it doubles with each further death.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Time, in addition to `GRACE`, that a worker has to exit after a termination signal; then it is killed.
const END: Duration = Duration::from_secs(30);
/// Time that a worker may leave a message of the supervisor unread.
const PATIENCE: Duration = Duration::from_secs(5);

/// No process has this number.
const NO_WORKER: u32 = 0;

/// Exit code of the worker, 0 to 255.
pub(crate) type Code = u8;

/// Runs this program's own command line again as a worker. Replaces a worker that dies. Ends when a worker exits with code
/// 0, when a worker ends before any has served, or after a termination signal.
///
/// # Errors
/// The system cannot start a process.
pub(crate) fn run() -> io::Result<Code> {
    let signals = signals()?;
    let mut held = HeldState::default();
    let (mut replaces, mut failures_in_row, mut reload) = (Replaces::default(), 0_u32, false);
    loop {
        let mut worker = match WorkerProcess::start(&replaces, &held) {
            Ok(worker) => worker,
            // Processes, memory or descriptors become available again; closed sockets would be lost.
            Err(error) if held.serves => {
                failures_in_row = failures_in_row.saturating_add(1);
                let pause = pause(failures_in_row);
                tracing::error!(%error, pause_ms = pause.as_millis() as u64, "cannot start a worker; retrying");
                match wait(&signals, pause)? {
                    PauseEnd::Told => return Ok(0),
                    PauseEnd::Over { reload: meanwhile } => reload |= meanwhile,
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        if reload {
            // The signal stays pending until the worker unblocks signals.
            worker.signal(Signal::SIGHUP);
        }
        let ended = worker.handle_signals(&signals, &mut held)?;
        let status = ended.status;
        let code = status.code().and_then(|code| Code::try_from(code).ok());
        match code {
            Some(code) if code == 0 || ended.told || !held.serves => return Ok(code),
            None if ended.told || !held.serves => return Ok(1),
            _ => {}
        }
        failures_in_row =
            if ended.served.is_some_and(|served| served > LONG) { 0 } else { failures_in_row.saturating_add(1) };
        let pause = pause(failures_in_row);
        let from_file = ended.served.is_none() && !replaces.from_file;
        replaces = Replaces { restarts: replaces.restarts + 1, ended: words(status), at: wall_clock(), from_file };
        let (restarts, pause_ms, how) = (replaces.restarts, pause.as_millis() as u64, &replaces.ended);
        match (ended.served, from_file) {
            (Some(_), _) => {
                tracing::error!(restarts, pause_ms, "worker died ({how}); starting another one with its sockets");
            }
            (None, true) => tracing::error!(
                restarts,
                pause_ms,
                "worker exited before it served ({how}); the next one starts with the configuration file"
            ),
            (None, false) => tracing::error!(
                restarts,
                pause_ms,
                "worker exited before it served ({how}); the next one starts with the configuration last in force"
            ),
        }
        match wait(&signals, pause)? {
            PauseEnd::Told => return Ok(0),
            PauseEnd::Over { reload: meanwhile } => reload = meanwhile || ended.reload,
        }
    }
}

/// State that must outlive a worker.
#[derive(Default)]
struct HeldState {
    sockets: HeldSockets,
    /// Sources of the configurations. The worker bounds their size, as it bounds the files that it reads.
    configs: Configs,
    /// True if any worker has served.
    serves: bool,
}

struct WorkerProcess {
    child: Child,
    channel: Channel,
    /// State that the worker has sent but not completed.
    coming: HeldState,
    /// True if a socket of `coming` did not arrive, because the kernel had no descriptor left for it.
    incomplete: bool,
    serves_since: Option<Instant>,
}

struct Ended {
    status: ExitStatus,
    /// True if a termination signal came.
    told: bool,
    /// Time for which it served, if it did.
    served: Option<Duration>,
    /// True if SIGHUP came after it had ended.
    reload: bool,
}

impl WorkerProcess {
    fn start(replaces: &Replaces, held: &HeldState) -> io::Result<Self> {
        let (channel, far) = Channel::pair()?;
        channel.set_patience(PATIENCE)?;
        // Not by its path: the file may have been replaced.
        let mut command = Command::new("/proc/self/exe");
        let mut arguments = std::env::args_os();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let stdin = Stdio::from(far.into_descriptor());
        let child = command.args(arguments).arg(WORKER).stdin(stdin).spawn()?;
        // A worker that dies meanwhile is noticed later.
        let _ = link::give(&channel, replaces, &held.sockets, &held.configs);
        Ok(Self { child, channel, coming: HeldState::default(), incomplete: false, serves_since: None })
    }

    /// Forwards signals and stores the state that the worker sends, until the worker has ended.
    fn handle_signals(&mut self, signals: &SignalFd, held: &mut HeldState) -> io::Result<Ended> {
        let (mut told, mut reload, mut deadline, mut speaks) = (false, false, None, true);
        loop {
            if let Some(status) = self.child.try_wait()? {
                // Messages that are still unread are valid; after them the channel ends.
                while speaks {
                    speaks = self.hear(held);
                }
                let served = self.serves_since.map(|since| since.elapsed());
                return Ok(Ended { status, told, served, reload });
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                tracing::error!("worker does not exit; killing it");
                self.signal(Signal::SIGKILL);
                deadline = None;
            }
            let patience = deadline.map_or(PollTimeout::NONE, |_| PollTimeout::from(1_000_u16));
            let mut both = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            if speaks {
                both.push(PollFd::new(self.channel.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut both, patience) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let said = both.get(1).is_some_and(|channel| channel.any().unwrap_or(false));
            while let Some(signal) = next(signals)? {
                match signal {
                    Signal::SIGCHLD => reap_orphans(self.child.id()),
                    Signal::SIGUSR1 | Signal::SIGUSR2 => {}
                    Signal::SIGHUP if self.child.try_wait()?.is_some() => reload = true,
                    Signal::SIGHUP => self.signal(signal),
                    _ => {
                        told = true;
                        deadline.get_or_insert(Instant::now() + END + GRACE);
                        self.signal(signal);
                    }
                }
            }
            if said {
                speaks = self.hear(held);
            }
        }
    }

    /// Receives one message of the worker; returns whether more may come.
    fn hear(&mut self, held: &mut HeldState) -> bool {
        let Ok(Some(got)) = self.channel.receive() else { return false };
        match (got.message, got.socket) {
            (HandoverMessage::Holdings, None) => (self.coming, self.incomplete) = (HeldState::default(), false),
            (HandoverMessage::Socket(label), Some(socket)) => self.coming.sockets.put(label, socket),
            (HandoverMessage::Socket(_), None) => self.incomplete = true,
            (HandoverMessage::StartConfig, None) => {
                Arc::make_mut(&mut self.coming.configs.start).extend_from_slice(&got.body);
            }
            (HandoverMessage::Config, None) => {
                Arc::make_mut(&mut self.coming.configs.in_force).extend_from_slice(&got.body)
            }
            (HandoverMessage::Complete, None) => {
                let coming = std::mem::take(&mut self.coming);
                if !self.incomplete {
                    *held = coming;
                } else {
                    // The sockets held before are still those that clients use, if they were complete.
                    tracing::error!(
                        "no file descriptor left for the worker's sockets; the next worker gets the sockets held before"
                    );
                    held.configs = coming.configs;
                }
                held.serves = true;
                self.serves_since.get_or_insert_with(Instant::now);
            }
            _ => {}
        }
        true
    }

    fn signal(&self, signal: Signal) {
        // The worker may have ended already.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }
}

/// Reaps ended processes other than the worker. As PID 1 of a container, the supervisor becomes the parent of each process there
/// whose parent ends.
fn reap_orphans(worker: u32) {
    let ended = || waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
    while let Ok(WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..)) = ended() {
        if process.as_raw() as u32 == worker || waitpid(process, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// Returns the pause before the next worker after `failures_in_row` deaths in a row of workers that hardly served.
fn pause(failures_in_row: u32) -> Duration {
    match failures_in_row {
        0 | 1 => Duration::ZERO,
        _ => FIRST_PAUSE.saturating_mul(1 << (failures_in_row - 2).min(16)).min(LONGEST_PAUSE),
    }
}

/// Describes the end of a process.
fn words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = Signal::try_from(signal).map_or("unknown", Signal::as_str);
            format!("signal {signal}, {name}")
        }
        (None, code) => format!("exit code {}", code.unwrap_or(-1)),
    }
}

/// Returns the supervisor's signals as a descriptor. A worker starts with them blocked: see [`hear_signals`].
fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    let handled = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD];
    // The last two have no meaning here, and would kill the process.
    handled.into_iter().chain([Signal::SIGUSR1, Signal::SIGUSR2]).for_each(|signal| set.add(signal));
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Returns the next pending signal.
fn next(signals: &SignalFd) -> io::Result<Option<Signal>> {
    let info = signals.read_signal()?;
    Ok(info.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()))
}

/// End of a pause.
enum PauseEnd {
    /// A termination signal came.
    Told,
    /// The next worker is due.
    Over {
        /// True if SIGHUP came, which is then for the next worker.
        reload: bool,
    },
}

/// Waits until the next worker is due.
fn wait(signals: &SignalFd, pause: Duration) -> io::Result<PauseEnd> {
    let (deadline, mut reload) = (Instant::now() + pause, false);
    loop {
        while let Some(signal) = next(signals)? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => return Ok(PauseEnd::Told),
                Signal::SIGHUP => reload = true,
                Signal::SIGCHLD => reap_orphans(NO_WORKER),
                _ => {}
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(PauseEnd::Over { reload });
        }
        let patience = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Unblocks signals in a worker that is ready to handle them; until then they stay pending.
///
/// # Errors
/// None, on Linux.
pub(crate) fn hear_signals() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Sets the worker's process name to that of the program; otherwise it would be `exe`, after the file it was started from.
pub(crate) fn set_process_name() {
    // The name is for people only.
    let _ = nix::sys::prctl::set_name(c"nodens");
}

/// Returns the worker's end of the channel, which is its standard input.
///
/// # Errors
/// There is none: the process was not started by a supervisor.
pub(crate) fn link_from_stdin() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_no_time_and_a_loop_ever_more() {
        let millis: Vec<_> = (0..12).map(|failures_in_row| pause(failures_in_row).as_millis()).collect();
        assert_eq!(millis, [0, 0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn deaths_have_words() {
        for (wait_status, expected) in [(9, "signal 9, SIGKILL"), (11, "signal 11, SIGSEGV"), (70 << 8, "exit code 70")]
        {
            assert_eq!(words(ExitStatus::from_raw(wait_status)), expected);
        }
    }
}
