//! The successor's side: asks the predecessor for a handover.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::channel::{Channel, HandoverMessage, Received};
use super::sockets::HeldSockets;
use super::{PROTOCOL, STEP, TURN, is_trusted};
use crate::cache::Cache;
use crate::epoch::Epoch;

/// Most sockets that are accepted from a predecessor.
const MOST_SOCKETS: usize = 4_096;

/// Everything that the predecessor handed over.
pub(crate) struct Taken {
    /// Channel to the predecessor.
    pub predecessor: Channel,
    pub sockets: HeldSockets,
    /// Its cache; `None` if it sent none.
    pub cache: Option<Cache>,
}

/// Reason for which a running nodens does not hand over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// It refuses, or uses another protocol.
    #[error("the nodens that serves here gives nothing: {0}")]
    Refused(String),
    /// It is gone, takes too long, or sends malformed messages.
    #[error("the nodens that serves here broke off: {0}")]
    Broken(#[from] io::Error),
}

/// Asks the nodens that listens on this Unix socket for a handover; returns `None` if there is none. Its cache's entries are
/// kept as they come, within `memory` bytes, with times since `epoch`.
///
/// # Errors
/// A nodens is there, but the handover fails.
pub(crate) fn take(path: &Path, memory: usize, epoch: Epoch) -> Result<Option<Taken>, TakeError> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    // If many wait for their turn, the connection itself has to wait.
    socket.set_write_timeout(Some(TURN))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    let predecessor = Channel::of(OwnedFd::from(socket));
    let uid = predecessor.peer_uid()?;
    if !is_trusted(uid) {
        return Err(TakeError::Refused(format!("it belongs to user {uid}, whose sockets are not trusted")));
    }
    predecessor.set_patience(TURN)?;
    predecessor.send(&hello())?;
    let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let first = predecessor.receive()?.ok_or_else(gone)?;
    predecessor.set_patience(STEP)?;
    match first.message {
        HandoverMessage::Hello { protocol: PROTOCOL, .. } => {}
        HandoverMessage::Hello { protocol, version } => {
            return Err(TakeError::Refused(format!("version {version} speaks protocol {protocol}, not {PROTOCOL}")));
        }
        HandoverMessage::Refused { why } => return Err(TakeError::Refused(why)),
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
    let (mut sockets, mut cache) = (HeldSockets::default(), None::<Cache>);
    loop {
        let got = predecessor.receive()?.ok_or_else(gone)?;
        match (got.message, got.socket, &cache) {
            (HandoverMessage::Socket(label), Some(socket), _) if sockets.len() < MOST_SOCKETS => {
                sockets.put(label, socket)
            }
            (HandoverMessage::Cache(keys), None, None) => {
                cache = Some(Cache::with_keys(memory, keys));
            }
            (HandoverMessage::Entries, None, Some(cache)) => {
                cache.unpack(&got.body, epoch.now());
            }
            (HandoverMessage::Complete, None, _) => return Ok(Some(Taken { predecessor, sockets, cache })),
            (HandoverMessage::Refused { why }, ..) => return Err(TakeError::Refused(why)),
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }
}

/// Returns why the predecessor does not wait for this process any longer; `None` if it waits, or is gone without a word.
pub(crate) fn refusal(predecessor: &Channel) -> Option<String> {
    match predecessor.has_news().then(|| predecessor.receive()) {
        Some(Ok(Some(Received { message: HandoverMessage::Refused { why }, .. }))) => Some(why),
        _ => None,
    }
}

/// Returns the message with the protocol and version of this process.
pub(super) fn hello() -> HandoverMessage {
    HandoverMessage::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// Sends sockets, each with its label.
///
/// # Errors
/// The other side is gone, or does not read.
pub(crate) fn send_sockets(channel: &Channel, sockets: &HeldSockets) -> io::Result<()> {
    sockets.iter().try_for_each(|(label, socket)| {
        channel.send_with(&HandoverMessage::Socket(label.clone()), &[], Some(socket.as_fd()))
    })
}
