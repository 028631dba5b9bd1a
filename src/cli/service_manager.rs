//! Messages to the service manager that started nodens, such as systemd: see sd_notify(3). Without the environment variable
//! NOTIFY_SOCKET there is none, and nothing is sent.

use std::process;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{env, thread};

use rustix::process::getppid;
use sd_notify::{NotifyState, notify};

/// Messages in the time after which the service manager takes this process for hung.
const MESSAGES: u32 = 3;

/// Connection to the service manager. Dropping it ends the signs of life.
pub(super) struct ServiceManager {
    /// Closed at the end; nothing is sent.
    _end: Sender<()>,
}

impl ServiceManager {
    /// Reports that nodens serves, and then sends signs of life while `is_responsive` returns true, if they are expected.
    pub(super) fn ready(is_responsive: impl Fn() -> bool + Send + 'static) -> Self {
        send(NotifyState::Ready);
        let (end, ended) = channel::<()>();
        if let Some(every) = watchdog().map(|limit| limit / MESSAGES) {
            // The service manager counts from its last message, which may be that of a worker before this one.
            send(NotifyState::Watchdog);
            let run = move || {
                while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    if is_responsive() {
                        send(NotifyState::Watchdog);
                    }
                }
            };
            if let Err(error) = thread::Builder::new().name("watchdog".into()).spawn(run) {
                tracing::error!(%error, "no thread sends signs of life: the service manager will take nodens for hung");
            }
        }
        Self { _end: end }
    }

    /// Reports that nodens stops.
    pub(super) fn stopping(self) {
        send(NotifyState::Stopping);
    }
}

/// Sends a message. A service manager that is away changes nothing.
fn send(state: NotifyState<'_>) {
    if let Err(error) = notify(&[state]) {
        tracing::debug!(%error, "cannot reach the service manager");
    }
}

/// Returns the time after which the service manager takes this process for hung without a sign of life: see
/// sd_watchdog_enabled(3). A worker answers for its supervisor, which is the process that the service manager started.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let own = [Some(process::id()), getppid().and_then(|parent| u32::try_from(parent.as_raw_nonzero().get()).ok())];
    let is_meant = number("WATCHDOG_PID").is_none_or(|pid| own.iter().flatten().any(|own| u64::from(*own) == pid));
    number("WATCHDOG_USEC").filter(|limit| *limit > 0 && is_meant).map(Duration::from_micros)
}
