//! The signals that `nodens serve` handles.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that the process handles.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) hang_up: Signal,
    /// Signals that have no meaning here, and would kill the process.
    _ignored: [Signal; 2],
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            _ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        })
    }
}
