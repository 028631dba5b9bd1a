//! The application: builds every part from a [`Config`], starts it, swaps the configuration on reload, drains on stop.
//!
//! ```text
//! main thread ──► start ──► worker 0 ─┐   each: a single-threaded runtime, its own sockets on every address, its own
//!    │                      worker 1 ─┤         upstream sockets; shared: cache, health, counters, the snapshot
//!    │                      ...      ─┘
//!    │                      control ───── admin pages, probes, loop checks, addresses of named servers, pod watch,
//!    │                                    warm-up
//!    │                      report ────── the report to clients about themselves, if configured
//!    ├──► reload ── a new snapshot, one pointer swap; a separate thread frees the old one
//!    ├──► standby ─ another process has the same sockets and serves: read nothing, complete queries in flight, wait
//!    └──► stop ──── stop reading, answer queries in flight, at most 5 s
//! ```

mod control;
pub(crate) mod descriptors;
mod error;
pub(crate) mod instance;
mod memory_limit;
mod retired;
mod running;
mod running_instance;
mod server_handle;
mod sharing;
mod start;
mod thread;
mod worker;

pub use error::StartError;
pub use running::Running;
pub use server_handle::ServerHandle;
pub use start::StartOptions;

use start::prepare;
use worker::WorkerPart;

use crate::config::Config;
use crate::task;

/// Binds every address and serves. Returns when all addresses are bound and all threads are started.
///
/// # Errors
/// An address is in use, not of this host or not permitted; or the system is out of threads.
///
/// ```
/// use nodens::app::start;
/// use nodens::config::parse::parse;
///
/// let text = "[server]\nlisten = ['127.0.0.1:0']\n[upstreams.up]\nservers = ['192.0.2.1']\n\
///             [[route]]\nzones = ['.']\nto = 'up'\n";
/// let running = start(parse(text, &[]).expect("a valid configuration")).expect("a free port");
/// assert_ne!(running.listen_addresses()[0].port(), 0);
/// assert_eq!(running.stop(), 0, "no query is left unanswered");
/// ```
pub fn start(config: Config) -> Result<Running, StartError> {
    start_in(config, StartOptions::default())
}

/// Starts like [`start()`], with options from the process's environment.
///
/// # Errors
/// As for [`start()`].
pub fn start_in(config: Config, seat: StartOptions) -> Result<Running, StartError> {
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let (mut running, parts) = prepare(config, workers, seat)?;
    for part in parts.workers {
        let (name, watch) = (format!("nodens-{}", part.number), running.watch("a worker"));
        let handle = thread::spawn(name, move || {
            let left = thread::block_on_local(part.run());
            watch.ended(left.as_ref().is_some_and(Result::is_ok));
            left.and_then(Result::ok).unwrap_or(0)
        });
        running.workers.push(handle.map_err(StartError::Thread)?);
    }
    let watch = running.watch("the control thread");
    let control = thread::spawn("nodens-control".into(), move || {
        watch.ended(thread::block_on_local(parts.control.run()).is_some())
    });
    running.others.push(control.map_err(StartError::Thread)?);
    if let Some(report) = parts.report {
        let watch = running.watch("the report's thread");
        // A thread of its own: requests of clients there delay no probe of an upstream.
        let report =
            thread::spawn("nodens-report".into(), move || watch.ended(thread::block_on_local(report.run()).is_some()));
        running.others.push(report.map_err(StartError::Thread)?);
    }
    Ok(running)
}

/// Starts with one worker, in tasks of the caller's own `LocalSet`: the clock is then the caller's too, and a test can pause
/// it. [`Running::stop`] only signals the tasks to stop; the handle returns the number of queries left.
///
/// # Errors
/// As for [`start()`].
pub fn start_here(config: Config) -> Result<(Running, tokio::task::JoinHandle<usize>), StartError> {
    let (running, parts) = prepare(config, 1, StartOptions::default())?;
    task::spawn_local(parts.control.run());
    parts.report.map(|report| task::spawn_local(report.run()));
    let parts = parts.workers.into_iter().map(WorkerPart::run);
    let worker = task::spawn_local(async move {
        let mut left = 0;
        for part in parts {
            left += part.await.unwrap_or(0);
        }
        left
    });
    Ok((running, worker))
}
