//! Phases of the server: it serves, is in standby beside a successor on the same sockets, or stops.

use tokio::sync::watch;

/// Phase of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Reading and answering queries.
    #[default]
    Serving,
    /// Standby: another process reads queries from the same sockets; this one completes queries in flight and waits.
    Resting,
    /// Answering the queries in flight before the end.
    Stopping,
}

/// Resolves when the server is no longer serving; returns the new phase.
pub(super) async fn over(mut phase: watch::Receiver<Phase>) -> Phase {
    // An error means that the whole server is gone.
    phase.wait_for(|phase| *phase != Phase::Serving).await.map_or(Phase::Stopping, |phase| *phase)
}

/// Resolves when the server is not in standby; returns its phase.
pub(super) async fn left_standby(mut phase: watch::Receiver<Phase>) -> Phase {
    phase.wait_for(|phase| *phase != Phase::Resting).await.map_or(Phase::Stopping, |phase| *phase)
}
