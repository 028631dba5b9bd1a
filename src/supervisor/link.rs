//! Channel between a supervisor and its worker: each sends the other the sockets and the configuration.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::handover::channel::{Channel, HandoverMessage, LONGEST_BODY, Replaces};
use crate::handover::sockets::HeldSockets;
use crate::handover::take::send_sockets;

/// Time that the supervisor may leave a message unread. It has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Interval between checks that the supervisor is running.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The worker's end of the channel.
#[derive(Clone)]
pub(crate) struct SupervisorChannel(Arc<Inner>);

struct Inner {
    channel: Channel,
    sent: Mutex<SentState>,
}

/// Sockets and configurations that the supervisor holds.
#[derive(Default)]
struct SentState {
    sockets: HeldSockets,
    configs: Configs,
}

/// Sources of two configurations, as the worker packs them: see [`super`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Configs {
    /// The start configuration, for the keys that only a start reads. Empty if it is the configuration in force.
    pub start: Arc<Vec<u8>>,
    /// The configuration in force; empty if there is none.
    pub in_force: Arc<Vec<u8>>,
}

/// State that a worker starts with.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// The end of the previous worker.
    pub replaces: Replaces,
    /// The sockets of the previous worker.
    pub sockets: HeldSockets,
    /// The configurations of the previous worker.
    pub configs: Configs,
}

/// Sends all that a worker starts with.
pub(super) fn give(channel: &Channel, replaces: &Replaces, sockets: &HeldSockets, configs: &Configs) -> io::Result<()> {
    channel.send(&HandoverMessage::Replaces(replaces.clone()))?;
    send_all(channel, sockets, configs)
}

fn send_all(channel: &Channel, sockets: &HeldSockets, configs: &Configs) -> io::Result<()> {
    send_sockets(channel, sockets)?;
    let Configs { start, in_force } = configs;
    for (message, config) in [(HandoverMessage::StartConfig, start), (HandoverMessage::Config, in_force)] {
        config.chunks(LONGEST_BODY).try_for_each(|part| channel.send_with(&message, part, None))?;
    }
    channel.send(&HandoverMessage::Complete)
}

impl SupervisorChannel {
    /// Opens the worker's end; returns it with the state that the supervisor sent.
    ///
    /// # Errors
    /// The supervisor is gone, or there was none.
    pub(crate) fn open(channel: Channel) -> io::Result<(Self, Inherited)> {
        channel.set_patience(PATIENCE)?;
        let mut given = Inherited::default();
        loop {
            let got = channel.receive()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            match (got.message, got.socket) {
                (HandoverMessage::Replaces(replaces), None) => given.replaces = replaces,
                (HandoverMessage::Socket(label), Some(socket)) => given.sockets.put(label, socket),
                (HandoverMessage::StartConfig, None) => {
                    Arc::make_mut(&mut given.configs.start).extend_from_slice(&got.body)
                }
                (HandoverMessage::Config, None) => {
                    Arc::make_mut(&mut given.configs.in_force).extend_from_slice(&got.body)
                }
                (HandoverMessage::Complete, None) => break,
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
        }
        Ok((Self(Arc::new(Inner { channel, sent: Mutex::default() })), given))
    }

    /// Sends the supervisor the sockets to hold from now on.
    pub(crate) fn hold_sockets(&self, sockets: &HeldSockets) {
        self.hold(|sent| sent.sockets = sockets.clone());
    }

    /// Sends the supervisor the configurations to hold from now on; if there are no sockets yet, together with the first ones.
    pub(crate) fn hold_configs(&self, configs: Configs) {
        self.hold(|sent| sent.configs = configs);
    }

    fn hold(&self, change: impl FnOnce(&mut SentState)) {
        let mut sent = self.0.sent.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut sent);
        if sent.sockets.is_empty() {
            // This process does not serve yet.
            return;
        }
        let channel = &self.0.channel;
        let done =
            channel.send(&HandoverMessage::Holdings).and_then(|()| send_all(channel, &sent.sockets, &sent.configs));
        if let Err(error) = done {
            tracing::warn!(%error, "cannot send to the supervisor");
        }
    }

    /// Resolves when the supervisor has exited.
    pub(crate) async fn broken(&self) {
        let channel = self.0.channel.try_clone().and_then(watched).ok();
        // The supervisor sends nothing more, so any event means that it has exited. The state is also checked at intervals: a
        // worker that missed the event would occupy ports without a supervisor.
        while !self.0.channel.has_news() {
            let readable = async {
                match &channel {
                    Some(channel) => channel.readable().await.map(|mut guard| guard.clear_ready()),
                    None => std::future::pending().await,
                }
            };
            let _ = timeout(LOOK_EVERY, readable).await;
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe, for descriptors that change; this one stays the same")]
fn watched(channel: Channel) -> io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    AsyncFd::with_interest(channel.into_descriptor(), Interest::READABLE)
}
