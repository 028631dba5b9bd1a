//! A clock that stands still but for [`Clock::advance`].
//!
//! Tokio moves a paused clock on by itself whenever the runtime is idle, also while replies lie in sockets; it does not
//! while a blocking task runs, so one runs for the scenario's whole life. Time then moves in small steps, and between two
//! of them all that is under way on loopback arrives.

use std::sync::mpsc;
use std::time::Duration;

use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, sleep};

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

/// How long everything may take that needs no time, on a clock that goes on by itself.
const SETTLED: Duration = Duration::from_millis(5);

/// The clock of one scenario; dropping it lets the runtime end.
pub(crate) struct Clock {
    /// What keeps a paused clock paused; none if it is the machine's.
    hold: Option<mpsc::Sender<()>>,
}

impl Clock {
    /// Pauses the clock of the current runtime.
    pub(crate) fn pause() -> Self {
        tokio::time::pause();
        let (hold, held) = mpsc::channel::<()>();
        drop(spawn_blocking(move || held.recv()));
        Self { hold: Some(hold) }
    }

    /// The machine's clock, for a server that does not run in this thread.
    pub(crate) fn real() -> Self {
        Self { hold: None }
    }

    /// Lets everything happen that needs no time.
    pub(crate) async fn settle(&self) {
        if self.is_real() {
            sleep(SETTLED).await;
            return;
        }
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
        if self.is_real() {
            sleep(by).await;
            return;
        }
        tokio::time::advance(by).await;
        self.settle().await;
    }

    /// Moves time on: in steps of `by`, or of whatever size suits its parts.
    pub(crate) async fn advance(&self, time: Duration, by: Option<Duration>) {
        if self.is_real() {
            sleep(time).await;
            return;
        }
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

    /// Whether it goes on by itself.
    fn is_real(&self) -> bool {
        self.hold.is_none()
    }
}
