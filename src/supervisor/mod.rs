//! `nodens serve` is two processes: a supervisor that does nothing, and a worker that does everything.
//!
//! ```text
//! supervisor ── starts ──► worker        the worker binds the sockets, and gives the supervisor other descriptors of them
//!     │  holds the sockets   ✗           dies: by a signal, a panic, for want of memory
//!     └───── starts ──► worker           gets the same sockets: queries that came meanwhile wait there
//! ```
//!
//! The supervisor has no thread besides the one that writes its log, reads nothing from the network and parses nothing, so
//! that there is little in it that could fail. Where the supervisor itself dies, the worker sees the end of [`link`], and stops.
//!
//! A successor serves what was in force when the last worker died, whatever the file says by then. The supervisor keeps the
//! sources of two configurations, that in force and that of the start; from the latter the successor takes the keys that
//! only a start reads ([`Config::keep_start_only`](crate::config::Config::keep_start_only)). The start is that of `serve`, or
//! of the `serve` that took over by a handover.
//!
//! A successor that ends before it served is followed by one that begins with what the configuration file holds by then,
//! these keys too; if the file is no good, with what was in force. If that one does not serve either, the next one begins
//! with what was in force, and so on in turn, with pauses: so a mended file heals whatever keeps successors from beginning.
//! What a successor of the file serves is in force from then on, and is that of the start.

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
use nix::unistd::Pid;

use self::link::Configs;
use crate::handover::channel::{Channel, Message, Replaces};
use crate::handover::sockets::Sockets;
use crate::server::GRACE;
use crate::upstream::server_status::wall_clock;

pub mod link;

/// Behind the arguments of `serve`: this process is the worker.
pub const WORKER: &str = "--worker";
/// A worker that served for so long before it died does not die in a loop.
const LONG: Duration = Duration::from_secs(1);
/// How long the second death in a row is waited after; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a worker may take to end when it is told to; then it is killed.
const END: Duration = Duration::from_secs(30);
/// How long a worker may leave a message of the supervisor unread.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it ended: with the worker's exit code, 0 to 255.
pub type Code = u8;

/// Runs this program's own command line again as a worker, and replaces the worker when it dies, until it ends by itself or
/// is told to.
///
/// # Errors
/// The system does not let it start a process.
pub fn run() -> io::Result<Code> {
    let signals = signals()?;
    let mut held = Held::default();
    let (mut replaces, mut streak, mut reload) = (Replaces::default(), 0_u32, false);
    loop {
        let mut worker = match Worker::start(&replaces, &held) {
            Ok(worker) => worker,
            // Processes, memory or descriptors come back; the sockets would not.
            Err(error) if held.serves => {
                streak = streak.saturating_add(1);
                let pause = pause(streak);
                tracing::error!(%error, pause_ms = pause.as_millis() as u64, "cannot start a worker; retrying");
                match wait(&signals, pause)? {
                    Waited::Told => return Ok(0),
                    Waited::Over { reload: meanwhile } => reload |= meanwhile,
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        if reload {
            // It waits until the worker hears signals.
            worker.signal(Signal::SIGHUP);
        }
        let ended = worker.mind(&signals, &mut held)?;
        let status = ended.status;
        let code = status.code().and_then(|code| Code::try_from(code).ok());
        match code {
            Some(code) if code == 0 || ended.told || !held.serves => return Ok(code),
            None if ended.told || !held.serves => return Ok(1),
            _ => {}
        }
        streak = if ended.served.is_some_and(|served| served > LONG) { 0 } else { streak.saturating_add(1) };
        let pause = pause(streak);
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
            Waited::Told => return Ok(0),
            Waited::Over { reload: meanwhile } => reload = meanwhile || ended.reload,
        }
    }
}

/// What must outlive a worker.
#[derive(Default)]
struct Held {
    sockets: Sockets,
    /// The worker bounds them, as it bounds the files that it reads.
    configs: Configs,
    /// Whether any worker has ever served.
    serves: bool,
}

struct Worker {
    child: Child,
    channel: Channel,
    /// What it has given so far, until it has said that this is all.
    coming: Held,
    /// A socket of these did not arrive: the kernel had no descriptor left for it.
    incomplete: bool,
    serves_since: Option<Instant>,
}

struct Ended {
    status: ExitStatus,
    /// Whether it was told to end.
    told: bool,
    /// For how long it served, if it did.
    served: Option<Duration>,
    /// SIGHUP came when it had ended already.
    reload: bool,
}

impl Worker {
    fn start(replaces: &Replaces, held: &Held) -> io::Result<Self> {
        let (channel, far) = Channel::pair()?;
        channel.set_patience(PATIENCE)?;
        // Not by its name: the file may be another one by now.
        let mut command = Command::new("/proc/self/exe");
        let mut arguments = std::env::args_os();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let stdin = Stdio::from(far.into_descriptor());
        let child = command.args(arguments).arg(WORKER).stdin(stdin).spawn()?;
        // One that dies meanwhile is seen to have died.
        let _ = link::give(&channel, replaces, &held.sockets, &held.configs);
        Ok(Self { child, channel, coming: Held::default(), incomplete: false, serves_since: None })
    }

    /// Passes signals on and holds what the worker gives, until the worker has ended.
    fn mind(&mut self, signals: &SignalFd, held: &mut Held) -> io::Result<Ended> {
        let (mut told, mut reload, mut deadline, mut speaks) = (false, false, None, true);
        loop {
            if let Some(status) = self.child.try_wait()? {
                // What it gave and nobody has taken yet is true all the same; behind it is the end of the link.
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
                    Signal::SIGCHLD => {}
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

    /// Takes one message of the worker; whether more may come.
    fn hear(&mut self, held: &mut Held) -> bool {
        let Ok(Some(got)) = self.channel.receive() else { return false };
        match (got.message, got.socket) {
            (Message::Holdings, None) => (self.coming, self.incomplete) = (Held::default(), false),
            (Message::Socket(label), Some(socket)) => self.coming.sockets.put(label, socket),
            (Message::Socket(_), None) => self.incomplete = true,
            (Message::StartConfig, None) => {
                Arc::make_mut(&mut self.coming.configs.start).extend_from_slice(&got.body);
            }
            (Message::Config, None) => Arc::make_mut(&mut self.coming.configs.in_force).extend_from_slice(&got.body),
            (Message::Complete, None) => {
                let coming = std::mem::take(&mut self.coming);
                if !self.incomplete {
                    *held = coming;
                } else {
                    // Those of before are still those that clients know, if they were all there.
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
        // It may have ended already.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }
}

/// How long the next worker waits after so many deaths in a row of workers that hardly served.
fn pause(streak: u32) -> Duration {
    match streak {
        0 | 1 => Duration::ZERO,
        _ => FIRST_PAUSE.saturating_mul(1 << (streak - 2).min(16)).min(LONGEST_PAUSE),
    }
}

/// How a process ended, in words.
fn words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = Signal::try_from(signal).map_or("unknown", Signal::as_str);
            format!("signal {signal}, {name}")
        }
        (None, code) => format!("exit code {}", code.unwrap_or(-1)),
    }
}

/// The signals that a supervisor hears, as a descriptor. A worker starts with them blocked: see [`hear_signals`].
fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().for_each(|signal| set.add(signal));
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// The next signal that has come.
fn next(signals: &SignalFd) -> io::Result<Option<Signal>> {
    let info = signals.read_signal()?;
    Ok(info.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()))
}

/// How a pause ended.
enum Waited {
    /// A signal says to end.
    Told,
    /// The next worker is due.
    Over {
        /// Whether SIGHUP came, which is for that one then.
        reload: bool,
    },
}

/// Waits until the next worker is due.
fn wait(signals: &SignalFd, pause: Duration) -> io::Result<Waited> {
    let (deadline, mut reload) = (Instant::now() + pause, false);
    loop {
        while let Some(signal) = next(signals)? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => return Ok(Waited::Told),
                Signal::SIGHUP => reload = true,
                _ => {}
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Waited::Over { reload });
        }
        let patience = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets a worker hear signals, once it is prepared to: until then they wait.
///
/// # Errors
/// None, on Linux.
pub fn hear_signals() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Gives the worker the program's name, where lists of processes would have that of the file it was started from, `exe`.
pub fn take_name() {
    // It is for people only.
    let _ = nix::sys::prctl::set_name(c"nodens");
}

/// The end of the link that a worker has on its standard input.
///
/// # Errors
/// There is none: the process was not started by a supervisor.
pub fn link_from_stdin() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_no_time_and_a_loop_ever_more() {
        let millis: Vec<_> = (0..12).map(|streak| pause(streak).as_millis()).collect();
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
