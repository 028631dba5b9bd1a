//! A clock that moves only by explicit steps, such as [`Clock::advance`].
//!
//! Tokio advances a paused clock whenever the runtime is idle, also while responses wait in sockets, but not while a blocking
//! task runs. Hence a blocking task runs for the scenario's whole life. Time moves in small steps, and between two steps all
//! messages in flight on loopback arrive.

use std::sync::mpsc;
use std::time::Duration;

use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, sleep};

/// Step of the clock during a wait for an event.
pub(crate) const FINE: Duration = Duration::from_millis(1);
/// Step at both ends of a long wait, where timers of milliseconds may run.
pub(crate) const MEDIUM: Duration = Duration::from_millis(5);
/// Length of these ends.
const ENDS: Duration = Duration::from_secs(1);
/// Step in the middle of a long wait.
const COARSE: Duration = Duration::from_millis(500);
/// Iterations of the runtime in which every message in flight advances by at least one hop.
const TURNS: usize = 10;
/// Real time for the kernel to deliver what it could not deliver at once; the paused clock does not move meanwhile.
const KERNEL: Duration = Duration::from_micros(20);

/// Time on the machine's clock for everything that takes no time on a paused one.
const SETTLED: Duration = Duration::from_millis(5);

/// The clock of one scenario; dropping it lets the runtime end.
pub(crate) struct Clock {
    /// Sender that keeps the clock paused; none for the machine's clock.
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

    /// Returns the machine's clock, for a server that does not run in this thread.
    pub(crate) fn real() -> Self {
        Self { hold: None }
    }

    /// Completes everything that needs no time.
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

    /// Advances the clock by one step.
    pub(crate) async fn step(&self, by: Duration) {
        if self.is_real() {
            sleep(by).await;
            return;
        }
        tokio::time::advance(by).await;
        self.settle().await;
    }

    /// Advances the clock by `time`: in steps of `by`, or in fine steps at both ends and coarse ones between.
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

    /// Advances the clock until `future` is complete.
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

    /// Returns whether this is the machine's clock.
    fn is_real(&self) -> bool {
        self.hold.is_none()
    }
}
