//! A clock that stands still but for [`Clock::advance`].
//!
//! Tokio moves a paused clock on by itself whenever the runtime is idle, also while replies lie in sockets; it does not
//! while a blocking task runs, so one runs for the scenario's whole life. Time then moves in small steps, and between two
//! of them all that is under way on loopback arrives.

use std::sync::mpsc;
use std::time::Duration;

use tokio::task::{spawn_blocking, yield_now};
use tokio::time::Instant;

/// A step while something is waited for.
pub(crate) const FINE: Duration = Duration::from_millis(1);
/// A step at both ends of a long wait, where timers of milliseconds may run.
pub(crate) const MEDIUM: Duration = Duration::from_millis(5);
/// How long these ends are.
const ENDS: Duration = Duration::from_secs(1);
/// A step in the middle of a long wait.
const COARSE: Duration = Duration::from_millis(500);
/// Turns of the runtime within which whatever is under way goes on by at least one hop.
const TURNS: usize = 24;
/// How long the kernel may take to deliver what it could not at once; real time, in which nothing else passes.
const KERNEL: Duration = Duration::from_micros(20);

/// The paused clock of one scenario; dropping it lets the runtime end.
pub(crate) struct Clock {
    _hold: mpsc::Sender<()>,
}

impl Clock {
    /// Pauses the clock of the current runtime.
    pub(crate) fn pause() -> Self {
        tokio::time::pause();
        let (hold, held) = mpsc::channel::<()>();
        drop(spawn_blocking(move || held.recv()));
        Self { _hold: hold }
    }

    /// Lets everything happen that needs no time.
    pub(crate) async fn settle(&self) {
        for _ in 0..TURNS {
            yield_now().await;
        }
        std::thread::sleep(KERNEL);
        for _ in 0..TURNS {
            yield_now().await;
        }
    }

    /// One step.
    pub(crate) async fn step(&self, by: Duration) {
        tokio::time::advance(by).await;
        self.settle().await;
    }

    /// Moves time on: in steps of `by`, or of whatever size suits its parts.
    pub(crate) async fn advance(&self, time: Duration, by: Option<Duration>) {
        let (start, mut passed) = (Instant::now(), Duration::ZERO);
        while passed < time {
            let at_an_end = passed < ENDS || time - passed <= ENDS;
            let size = by.unwrap_or(if at_an_end { MEDIUM } else { COARSE.min(time - passed - ENDS) });
            self.step(size.min(time - passed)).await;
            passed = start.elapsed();
        }
    }

    /// Finishes what may need some time.
    pub(crate) async fn drive<R>(&self, future: impl Future<Output = R>) -> R {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                result = &mut future => return result,
                () = self.step(FINE) => {}
            }
        }
    }
}
