//! Connection between two processes of one host that carries messages, some with an open socket.
//!
//! It is a Unix socket that preserves message boundaries (SOCK_SEQPACKET). A message consists of a length of 4 bytes, JSON of
//! that length (the message itself), and raw bytes (part of a configuration, entries of a cache). Sockets are sent as
//! SCM_RIGHTS, see unix(7): the receiver gets the same socket with the data that waits in it, not a copy.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::label::Label;
use crate::cache::HashKeys;

/// Most bytes after a message's JSON.
pub const LONGEST_BODY: usize = 96 << 10;
/// Most bytes of a whole message.
const LONGEST: usize = LONGEST_BODY + (8 << 10);
/// Size of the length before the JSON.
const LENGTH: usize = 4;

/// Messages between two processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandoverMessage {
    /// The sender and its protocol.
    Hello {
        /// See [`super::PROTOCOL`].
        protocol: u32,
        /// The version of nodens.
        version: String,
    },
    /// Refusal of the handover.
    Refused {
        /// The reason, for people.
        why: String,
    },
    /// With a socket: its label.
    Socket(Label),
    /// Before the entries of a cache: the keys that it hashes with.
    Cache(HashKeys),
    /// With bytes: entries of the cache, see [`crate::cache::packed`].
    Entries,
    /// With bytes: a part of the sources of the configuration in force. Only between a supervisor and its worker.
    Config,
    /// With bytes: a part of the sources of the start configuration, if it differs. Only between a supervisor and its worker.
    StartConfig,
    /// End of the data.
    Complete,
    /// From the successor: it takes queries, and the predecessor may go into standby.
    Ready,
    /// From the predecessor: it reads no queries, and has transferred all connections. The successor may hand over in turn.
    Settled,
    /// With a socket, and bytes that were read from it: a client's connection.
    Connection {
        /// Address of the client of the connection.
        client: IpAddr,
    },
    /// From the successor, which is about to stop: the predecessor is to serve again.
    Back,
    /// From the predecessor: it serves again.
    Resumed,
    /// From a process in standby that is about to stop, to its predecessor: the predecessor is not to serve again.
    Released,
    /// From a worker: all that its supervisor is to hold follows. Earlier items that were not completed are discarded.
    Holdings,
    /// From a supervisor: the end of its last worker.
    Replaces(Replaces),
}

/// Information for a worker about the worker that it replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaces {
    /// Workers replaced since the supervisor started.
    pub restarts: u64,
    /// Description of the end of the last worker; empty if there was none.
    pub ended: String,
    /// Time at which the end was noticed, in milliseconds since 1970.
    pub at: u64,
    /// The last worker did not serve with the configuration in force: this worker starts with the configuration file.
    pub from_file: bool,
}

/// A received message, with the descriptors that came with it.
#[derive(Debug)]
pub struct Received {
    /// Content of the message, without its descriptors.
    pub message: HandoverMessage,
    /// The bytes that it carried.
    pub body: Vec<u8>,
    /// The socket that it carried.
    pub socket: Option<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Creates both ends of a connection.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Wraps a descriptor of one end.
    pub fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Returns another descriptor of the same end.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Returns whether the other end is closed or has sent a message.
    pub fn has_news(&self) -> bool {
        let mut watched = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sets the timeout of sending and receiving; zero means none.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let patience = Some(patience).filter(|patience| !patience.is_zero());
        set_socket_timeout(&self.0, Timeout::Recv, patience)?;
        set_socket_timeout(&self.0, Timeout::Send, patience)?;
        Ok(())
    }

    /// Returns the user id of the process at the other end, as of the time when it connected.
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(getsockopt(&self.0, sockopt::PeerCredentials)?.uid())
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other side is gone, or does not read.
    pub fn send(&self, message: &HandoverMessage) -> io::Result<()> {
        self.send_with(message, &[], None)
    }

    /// Sends a message with bytes, at most [`LONGEST_BODY`], and a socket.
    ///
    /// # Errors
    /// The other side is gone, or does not read.
    pub fn send_with(&self, message: &HandoverMessage, body: &[u8], socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() + LENGTH + body.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"));
        }
        let length = (text.len() as u32).to_be_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sockets: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
        if !sockets.is_empty() {
            // The space is for one socket.
            ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
        }
        let parts = [IoSlice::new(&length), IoSlice::new(&text), IoSlice::new(body)];
        sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives a message; returns `None` if the other side is gone.
    ///
    /// # Errors
    /// The other side takes too long, or its message is malformed.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        let mut bytes = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut part = [IoSliceMut::new(&mut bytes)];
        let got = match recvmsg(&self.0, &mut part, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => got,
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut sockets = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let socket = sockets.by_ref().flatten().next();
        if got.bytes == 0 {
            return Ok(None);
        }
        let strange = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(strange("a message that is too long"));
        }
        bytes.truncate(got.bytes);
        let length = bytes.first_chunk::<LENGTH>().map(|length| u32::from_be_bytes(*length) as usize);
        let end = length.and_then(|length| length.checked_add(LENGTH)).ok_or_else(|| strange("a broken message"))?;
        let text = bytes.get(LENGTH..end).ok_or_else(|| strange("a broken message"))?;
        let message = serde_json::from_slice(text)?;
        bytes.drain(..end);
        Ok(Some(Received { message, body: bytes, socket }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn messages_bring_bytes_and_sockets() {
        let (one, other) = Channel::pair().expect("a pair");
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let client = [192, 0, 2, 1].into();
        one.send_with(&HandoverMessage::Connection { client }, &[7; LONGEST_BODY], Some(far.as_fd())).expect("sends");
        one.send(&HandoverMessage::Complete).expect("sends");
        drop(far);
        let got = other.receive().expect("a message").expect("a message");
        assert_eq!((got.message, got.body), (HandoverMessage::Connection { client }, vec![7; LONGEST_BODY]));
        let mut far = UnixStream::from(got.socket.expect("a socket"));
        far.write_all(b"here").expect("writes");
        let mut text = [0; 4];
        near.read_exact(&mut text).expect("reads");
        assert_eq!(&text, b"here");
        let got = other.receive().expect("a message").expect("a message");
        assert!(got.message == HandoverMessage::Complete && got.body.is_empty() && got.socket.is_none());
        drop(one);
        assert!(other.receive().expect("an end").is_none());
        assert!(other.send(&HandoverMessage::Ready).is_err());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [&b"\0\0\0"[..], b"\0\0\0\x09{}", b"\xff\xff\xff\xff{}", b"\0\0\0\x02{}", b"\0\0\0\x05\"new\""] {
            let (one, other) = Channel::pair().expect("a pair");
            rustix::net::send(&one.0, bytes, SendFlags::empty()).expect("sends");
            assert!(other.receive().is_err(), "{bytes:?}");
        }
        let (one, other) = Channel::pair().expect("a pair");
        assert!(one.send_with(&HandoverMessage::Entries, &vec![0; LONGEST], None).is_err());
        rustix::net::send(&one.0, &vec![0; LONGEST + 1], SendFlags::empty()).expect("sends");
        assert!(other.receive().is_err());
        other.set_patience(Duration::from_millis(1)).expect("a socket");
        assert!(other.receive().is_err(), "nobody says anything");
    }

    #[test]
    fn the_peer_is_known() {
        let (one, _other) = Channel::pair().expect("a pair");
        assert_eq!(one.peer_uid().expect("a uid"), nix::unistd::geteuid().as_raw());
    }
}
