//! Netlink (RFC 3549, netlink(7)): messages with attributes, and a socket for requests to the kernel.
//!
//! One encoder serves two families: rtnetlink for links and addresses, nfnetlink for the firewall. A message consists of a
//! header, the family's own header, and attributes: length, type, value, padded to four bytes. Numbers are in the host's byte
//! order in headers and in rtnetlink, and in network order in nftables.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

/// Timeout of a receive operation.
const PATIENCE: Duration = Duration::from_secs(5);
/// Size of the receive buffer; the kernel sends at most 32 KiB at once.
const BUFFER: usize = 64 << 10;
/// Most bytes of the messages for one request: far more than the links, addresses and own rules of any node need.
const LONGEST_ANSWER: usize = 16 << 20;
/// Bytes of a message's header.
const HEADER: usize = 16;
/// Bytes of an attribute's header.
const ATTRIBUTE: usize = 4;

/// Message types of netlink itself.
mod kind {
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
}

/// Flags of a request.
pub(super) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// Bit of an attribute's type for a value of nested attributes; the next lower bit is for a value in network order.
const NESTED: u16 = 0x8000;
const TYPE_BITS: u16 = 0x3fff;

/// A message to the kernel.
#[derive(Clone, Debug)]
pub(super) struct KernelRequest {
    pub(super) kind: u16,
    pub(super) flags: u16,
    body: Vec<u8>,
}

impl KernelRequest {
    /// Creates a message with the family's own header.
    pub(super) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        Self { kind, flags, body: header.to_vec() }
    }

    pub(super) fn put(mut self, attribute: u16, value: &[u8]) -> Self {
        put(&mut self.body, attribute, value);
        self
    }

    /// Appends an attribute with a zero-terminated text.
    pub(super) fn text(self, attribute: u16, text: &str) -> Self {
        self.put(attribute, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute with nested attributes.
    pub(super) fn nest(self, attribute: u16, inner: &[u8]) -> Self {
        self.put(attribute | NESTED, inner)
    }

    /// Encodes the message with a sequence number, which the kernel repeats in its messages about it.
    pub(super) fn bytes(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend_from_slice(&((HEADER + self.body.len()) as u32).to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

pub(super) fn put(bytes: &mut Vec<u8>, attribute: u16, value: &[u8]) {
    bytes.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    bytes.extend_from_slice(&attribute.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends an attribute with nested attributes.
pub(super) fn nest(bytes: &mut Vec<u8>, attribute: u16, inner: &[u8]) {
    put(bytes, attribute | NESTED, inner);
}

/// Iterates over the attributes after a header of `header` bytes, up to the first malformed attribute.
pub(super) fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    marked_attributes(body, header).map(|(kind, _, value)| (kind, value))
}

/// As [`attributes`], with whether each value is marked as nested attributes. The kernel does not mark all of its own.
pub(super) fn marked_attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, bool, &[u8])> {
    let mut rest = body.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, kind) = (u16_at(rest, 0)?, u16_at(rest, 2)?);
        let value = rest.get(ATTRIBUTE..usize::from(length))?;
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_BITS, kind & NESTED != 0, value))
    })
}

/// Returns the value of an attribute.
pub(super) fn attribute(body: &[u8], header: usize, wanted: u16) -> Option<&[u8]> {
    attributes(body, header).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// Returns the text of a value, which ends at the first zero.
pub(super) fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A message from the kernel.
#[derive(Debug)]
pub(super) struct KernelMessage {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

/// A netlink socket of one family.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket for requests.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        Self::listening(protocol, 0)
    }

    /// Opens a socket that receives the notifications of these multicast groups (a bit mask).
    pub(super) fn listening(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(super) fn dump(&mut self, message: &KernelRequest) -> io::Result<Vec<KernelMessage>> {
        self.ask(std::slice::from_ref(message), 1)
    }

    /// Requests a change and waits for its acknowledgement.
    pub(super) fn change(&mut self, message: &KernelRequest) -> io::Result<()> {
        self.ask(std::slice::from_ref(message), 1).map(drop)
    }

    /// Sends messages in one datagram; returns the kernel's messages up to the last of `ends` acknowledgements or ends of lists.
    pub(super) fn ask(&mut self, messages: &[KernelRequest], ends: usize) -> io::Result<Vec<KernelMessage>> {
        let first = self.sequence;
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(&message.bytes(self.sequence));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            self.sequence = self.sequence.wrapping_add(1);
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let (mut answers, mut left, mut size) = (Vec::new(), ends, 0);
        let mut buffer = vec![0; BUFFER];
        while left > 0 {
            let got = self.receive(&mut buffer)?;
            size += got;
            if size > LONGEST_ANSWER {
                return Err(io::Error::other("the kernel's answer does not end"));
            }
            let mut rest = &buffer[..got];
            while let Some((length, kind)) = u32_at(rest, 0).zip(u16_at(rest, 4)) {
                let Some(body) = rest.get(HEADER..length as usize) else { break };
                let own = u32_at(rest, 8).is_some_and(|number| number.wrapping_sub(first) < messages.len() as u32);
                rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
                match kind {
                    // A message about an earlier request that timed out.
                    _ if !own => {}
                    kind::ERROR => match u32_at(body, 0).unwrap_or_default() as i32 {
                        0 => left = left.saturating_sub(1),
                        error => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
                    },
                    kind::DONE => left = left.saturating_sub(1),
                    _ => answers.push(KernelMessage { kind, body: body.to_vec() }),
                }
            }
        }
        Ok(answers)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
                result => return Ok(result?),
            }
        }
    }

    /// Discards all pending notifications; returns whether any was of a wanted message type, or lost.
    pub(super) fn clear(&self, is_wanted: impl Fn(u16) -> bool) -> bool {
        let mut any = false;
        let mut buffer = [0; 4_096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => {}
                Ok(length) => {
                    let mut rest = buffer.get(..length).unwrap_or_default();
                    while let Some((length, kind)) = u32_at(rest, 0).zip(u16_at(rest, 4)) {
                        any |= is_wanted(kind);
                        rest = rest.get((length as usize).next_multiple_of(4).max(HEADER)..).unwrap_or_default();
                    }
                }
                // The socket's buffer was full, and notifications were lost.
                Err(Errno::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut inner = Vec::new();
        put(&mut inner, 1, b"abcde");
        put(&mut inner, 2, b"");
        let message = KernelRequest::new(7, 5, b"head").text(3, "eth0").nest(4, &inner).put(5, &[9]);
        let bytes = message.bytes(11);
        assert_eq!((u32_at(&bytes, 0), u16_at(&bytes, 4)), (Some(bytes.len() as u32), Some(7)));
        let body = &bytes[HEADER..];
        assert_eq!(attribute(body, 4, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(attribute(body, 4, 5), Some(&[9][..]));
        let inner: Vec<_> = attributes(attribute(body, 4, 4).expect("nested"), 0).collect();
        assert_eq!(inner, [(1, &b"abcde"[..]), (2, &b""[..])]);
    }

    #[test]
    fn broken_attributes_end_the_list() {
        for body in [&b"\x03\0\x01\0"[..], b"\x09\0\x01\0abcd", b"\x04\0\x01", b"\0\0\0\0", b""] {
            assert_eq!(attributes(body, 0).count(), 0, "{body:?}");
        }
        assert_eq!(attributes(b"\x05\0\x01\0a", 0).count(), 1, "the last one needs no padding");
    }

    #[test]
    fn the_kernel_answers() {
        let mut route = Netlink::open(SockProtocol::NetlinkRoute).expect("a socket");
        // RTM_GETLINK for all links.
        let links = route.dump(&KernelRequest::new(18, flag::REQUEST | flag::DUMP, &[0; 16])).expect("links");
        assert!(links.iter().any(|link| attribute(&link.body, 16, 3).map(text).as_deref() == Some("lo")));
        let nothing = route.change(&KernelRequest::new(18, flag::REQUEST | flag::ACK, &[0xff; 16]));
        assert!(nothing.is_err());
    }
}
