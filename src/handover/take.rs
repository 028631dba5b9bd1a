//! The new one's side: asks the old one for its place.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::channel::{Channel, Message};
use super::sockets::Sockets;
use super::{PROTOCOL, STEP, is_trusted};

/// Sockets that one nodens may have: more are not taken.
const MOST_SOCKETS: usize = 4_096;
/// Bytes of cache entries that are taken.
pub const MOST_ENTRIES: usize = 64 << 20;

/// What the old one gave.
pub struct Taken {
    /// The way to it.
    pub predecessor: Channel,
    /// Its sockets.
    pub sockets: Sockets,
    /// Entries of its cache.
    pub entries: Vec<Vec<u8>>,
}

/// Why there is no handover although somebody is there.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It does not want to, or speaks another protocol.
    #[error("the nodens that serves here gives nothing: {0}")]
    Refused(String),
    /// It is gone, takes too long, or says what cannot be understood.
    #[error("the nodens that serves here broke off: {0}")]
    Broken(#[from] io::Error),
}

/// Asks whoever listens on this Unix socket; none if nobody does.
///
/// # Errors
/// Somebody is there, but there is no handover.
pub fn take(path: &Path) -> Result<Option<Taken>, TakeError> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
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
        return Err(TakeError::Refused(format!("it is user {uid}'s, whose sockets are not to be trusted")));
    }
    predecessor.set_patience(STEP)?;
    predecessor.send(&hello())?;
    let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
    match predecessor.receive()?.ok_or_else(gone)?.message {
        Message::Hello { protocol: PROTOCOL, .. } => {}
        Message::Hello { protocol, version } => {
            return Err(TakeError::Refused(format!("version {version} speaks protocol {protocol}, not {PROTOCOL}")));
        }
        Message::Refused { why } => return Err(TakeError::Refused(why)),
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
    let (mut sockets, mut entries, mut bytes) = (Sockets::default(), Vec::new(), 0);
    loop {
        let got = predecessor.receive()?.ok_or_else(gone)?;
        match (got.message, got.socket) {
            (Message::Socket(label), Some(socket)) if sockets.len() < MOST_SOCKETS => sockets.put(label, socket),
            (Message::Entries, None) => {
                bytes += got.body.len();
                if bytes <= MOST_ENTRIES {
                    entries.push(got.body);
                }
            }
            (Message::Complete, None) => return Ok(Some(Taken { predecessor, sockets, entries })),
            (Message::Refused { why }, _) => return Err(TakeError::Refused(why)),
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }
}

/// Who this is.
pub(super) fn hello() -> Message {
    Message::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// Sends sockets, each with its label.
///
/// # Errors
/// The other side is gone, or does not read.
pub fn send_sockets(channel: &Channel, sockets: &Sockets) -> io::Result<()> {
    sockets
        .iter()
        .try_for_each(|(label, socket)| channel.send_with(&Message::Socket(label.clone()), &[], Some(socket.as_fd())))
}
