//! Common parts of all benchmarks with servers: CPUs, a directory, an end on a signal, and progress.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// Returns the first two CPUs that this process may use, or none if it may use only one.
///
/// # Errors
/// Returns an error if the system does not report the CPUs.
pub fn cpus() -> io::Result<(Option<usize>, Option<usize>)> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let mut usable = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    match (usable.next(), usable.next()) {
        (Some(one), Some(other)) => Ok((Some(one), Some(other))),
        _ => Ok((None, None)),
    }
}

/// Returns a flag that a signal sets to end the run. The run then stops what it started, and ends.
pub fn stop_on_signal() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [mut interrupt, mut terminate, mut hangup] = kinds.map(signal);
            let (interrupt, terminate, hangup) = (interrupt.as_mut(), terminate.as_mut(), hangup.as_mut());
            if let (Ok(interrupt), Ok(terminate), Ok(hangup)) = (interrupt, terminate, hangup) {
                loop {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
                    told.store(true, Ordering::Relaxed);
                }
            }
        });
        io::Result::Ok(())
    });
    stop
}

/// Checks whether the run is to end.
///
/// # Errors
/// Returns an error if it is.
pub fn interrupted(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) {
        Err(io::Error::new(io::ErrorKind::Interrupted, "ended before its time"))
    } else {
        Ok(())
    }
}

/// Prints a line of progress.
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// Writes the text that `text` makes, if there is a file for it.
///
/// # Errors
/// Returns an error if the text cannot be made or written.
pub fn write(file: Option<&Path>, text: impl FnOnce() -> io::Result<String>) -> io::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let written = text().and_then(|text| fs::write(file, text));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

/// Directory for this run, removed at its end.
pub struct Dir(pub PathBuf);

impl Dir {
    /// Creates a new directory, with `what` in its name.
    ///
    /// # Errors
    /// Returns an error if it cannot be created.
    pub fn new(what: &str) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("nodens-{what}-{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // what cannot be removed is small, and in the system's temporary directory
    }
}
