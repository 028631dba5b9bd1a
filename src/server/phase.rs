//! What the server is about: it serves, rests beside a successor on the same sockets, or stops.

use tokio::sync::watch;

/// What the server is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It takes queries.
    #[default]
    Serving,
    /// Another process has the same sockets and takes queries from them; this one finishes what it has, and waits.
    Resting,
    /// It ends.
    Stopping,
}

/// Resolves when the server serves no more, with what it is about then.
pub(super) async fn over(mut phase: watch::Receiver<Phase>) -> Phase {
    // An error says that the whole server is gone.
    phase.wait_for(|phase| *phase != Phase::Serving).await.map_or(Phase::Stopping, |phase| *phase)
}

/// Resolves when the server does not rest, with what it is about then.
pub(super) async fn rested(mut phase: watch::Receiver<Phase>) -> Phase {
    phase.wait_for(|phase| *phase != Phase::Resting).await.map_or(Phase::Stopping, |phase| *phase)
}
