//! Progress bar and stop signal of a long run in a terminal.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

/// Returns a flag that SIGINT and SIGTERM set. A second signal exits the program at once.
pub(super) fn stop_on_signal() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if told.swap(true, Ordering::Relaxed) {
                    std::process::exit(130); // 128 + SIGINT, as in shells
                }
            }
            #[allow(unreachable_code)] // it gives the block its type
            io::Result::Ok(())
        })
    });
    stop
}

/// Returns a progress bar on stderr, hidden if stderr is no terminal.
pub(super) fn bar() -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3}%  {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar
}
