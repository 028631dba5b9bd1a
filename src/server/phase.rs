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

/// Sets the phase, unless the server stops: no phase follows that one. Returns whether it is set.
pub(crate) fn turn(phase: &watch::Sender<Phase>, to: Phase) -> bool {
    phase.send_if_modified(|now| {
        let goes_on = *now != Phase::Stopping;
        *now = if goes_on { to } else { *now };
        goes_on
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_final() {
        let (phase, _) = watch::channel(Phase::Serving);
        for to in [Phase::Resting, Phase::Serving, Phase::Stopping] {
            assert!(turn(&phase, to), "{to:?}");
            assert_eq!(*phase.borrow(), to);
        }
        for to in [Phase::Resting, Phase::Serving] {
            assert!(!turn(&phase, to), "{to:?}");
            assert_eq!(*phase.borrow(), Phase::Stopping);
        }
    }
}
