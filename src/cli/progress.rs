//! A run that takes its time, seen from the terminal: how far it is, and the signal that ends it.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

/// True once the user or the system wants the run to end. A second signal ends the program at once.
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
                    std::process::exit(130); // 128 + SIGINT, as shells have it
                }
            }
            #[allow(unreachable_code)] // it gives the block its type
            io::Result::Ok(())
        })
    });
    stop
}

/// A progress bar on stderr, if that is a terminal.
pub(super) fn bar() -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3}%  {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar
}
