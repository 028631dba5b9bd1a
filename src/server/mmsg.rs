//! Batches of datagrams: `recvmmsg` and `sendmmsg`. The only `unsafe` code of the crate.
//!
//! Reason: one system call for each datagram costs a fifth more CPU than one for each batch. The safe wrappers send one
//! control message (here the source address of the response) for a whole batch, but each response needs its own.
//!
//! Soundness: [`DatagramBatch`] owns every buffer that the kernel reads or writes. The buffers are boxed once and never moved or
//! resized. The pointers to them are written again from these buffers before each call.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Most datagrams that one system call receives.
pub(crate) const BATCH: usize = 64;
/// Longest query that is received whole. A longer one is cut to this length and then malformed.
pub(crate) const LARGEST_QUERY: usize = 2_048;
/// Size of the buffer for one control message with an address; `in6_pktinfo` is the largest.
const CONTROL: usize = 64;

/// Source address of a datagram and its destination on this host, as the kernel represents them.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    name: libc::sockaddr_storage,
    name_len: libc::socklen_t,
    control: Control,
    control_len: usize,
}

/// Control messages are read in units of words, so the buffer is aligned to a word.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Reusable buffers for one batch.
pub(crate) struct DatagramBatch {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    peers: Box<[Peer]>,
    queries: Box<[[u8; LARGEST_QUERY]]>,
    lengths: [usize; BATCH],
    response_buffers: Box<[[u8; DatagramBatch::LARGEST_REPLY]]>,
    /// Slot and length of each response that is to be sent.
    outgoing: Vec<(usize, usize)>,
}

impl DatagramBatch {
    /// Longest response that one datagram carries.
    pub(crate) const LARGEST_REPLY: usize = crate::wire::LARGEST_UDP_REPLY as usize;

    pub(crate) fn new() -> Self {
        // SAFETY: these are plain C structures, for which zero bytes are a valid value.
        let (header, vector, peer) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            headers: vec![header; BATCH].into(),
            vectors: vec![vector; BATCH].into(),
            peers: vec![peer; BATCH].into(),
            queries: vec![[0; LARGEST_QUERY]; BATCH].into(),
            lengths: [0; BATCH],
            response_buffers: vec![[0; Self::LARGEST_REPLY]; BATCH].into(),
            outgoing: Vec::with_capacity(BATCH),
        }
    }

    /// Receives up to [`BATCH`] datagrams. `with_destination`: the socket reports the destination of each datagram.
    ///
    /// # Errors
    /// Errors of `recvmmsg`; `WouldBlock` if no datagram waits.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, with_destination: bool) -> io::Result<usize> {
        self.outgoing.clear();
        for at in 0..BATCH {
            let peer = &mut self.peers[at];
            self.vectors[at] = libc::iovec { iov_base: self.queries[at].as_mut_ptr().cast(), iov_len: LARGEST_QUERY };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = ptr::from_mut(&mut peer.name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = if with_destination { peer.control.0.as_mut_ptr().cast() } else { ptr::null_mut() };
            header.msg_controllen = if with_destination { CONTROL as _ } else { 0 };
            header.msg_flags = 0;
        }
        // SAFETY: each header points at a name, a vector, a buffer and a control buffer that `self` owns, with their
        // true lengths, and none of them moves before the call returns.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as _,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?.min(BATCH);
        for at in 0..count {
            let header = &self.headers[at];
            self.lengths[at] = (header.msg_len as usize).min(LARGEST_QUERY);
            self.peers[at].name_len = header.msg_hdr.msg_namelen;
            self.peers[at].control_len = header.msg_hdr.msg_controllen.min(CONTROL);
        }
        Ok(count)
    }

    /// Returns datagram `at` of the batch, its sender, and the buffer for the response. Returns `None` if `at` is not below
    /// `BATCH`, or if the sender's address family is unknown.
    pub(crate) fn packet(&mut self, at: usize) -> Option<(&[u8], SocketAddr, &mut [u8])> {
        let client = self.peers.get(at)?.address()?;
        Some((self.queries[at].get(..self.lengths[at])?, client, &mut self.response_buffers[at][..]))
    }

    /// Returns the sender of datagram `at`, for a deferred response.
    pub(crate) fn peer(&self, at: usize) -> Option<Peer> {
        self.peers.get(at).copied()
    }

    /// Queues the response to datagram `at`: `len` bytes in its buffer.
    pub(crate) fn queue_response(&mut self, at: usize, len: usize) {
        if at < BATCH && len > 0 && self.outgoing.len() < BATCH {
            self.outgoing.push((at, len.min(Self::LARGEST_REPLY)));
        }
    }

    /// Sends at most [`BATCH`] deferred responses, each to its peer. `render` writes a response into the given buffer and
    /// returns its length; responses of length 0 are not sent. Returns the same count as [`DatagramBatch::send`].
    pub(crate) fn send_rendered<T>(
        &mut self,
        socket: BorrowedFd<'_>,
        responses: impl Iterator<Item = (Peer, T)>,
        render: impl Fn(&T, &mut [u8]) -> usize,
    ) -> usize {
        let mut count = 0;
        for (peer, response) in responses.take(BATCH) {
            let len = render(&response, &mut self.response_buffers[count]).min(Self::LARGEST_REPLY);
            if len > 0 {
                self.vectors[count] =
                    libc::iovec { iov_base: self.response_buffers[count].as_mut_ptr().cast(), iov_len: len };
                self.peers[count] = peer;
                self.headers[count].msg_hdr = self.peers[count].header(&mut self.vectors[count]);
                count += 1;
            }
        }
        // SAFETY: each header points at a name, a vector, a response and a control buffer that `self` owns.
        unsafe { send_all(socket, &mut self.headers[..count]) }
    }

    /// Sends the queued responses. Returns how many the kernel refused, for example because the address is unreachable.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        for (slot, (at, len)) in self.outgoing.iter().copied().enumerate() {
            self.vectors[slot] = libc::iovec { iov_base: self.response_buffers[at].as_mut_ptr().cast(), iov_len: len };
            self.headers[slot].msg_hdr = self.peers[at].header(&mut self.vectors[slot]);
        }
        let count = self.outgoing.len();
        self.outgoing.clear();
        // SAFETY: each header points at a name, a vector, a response and a control buffer that `self` owns.
        unsafe { send_all(socket, &mut self.headers[..count]) }
    }
}

impl Default for DatagramBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Peer {
    /// Returns the source address of the datagram.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let name = &raw const self.name;
        match libc::c_int::from(self.name.ss_family) {
            libc::AF_INET if self.name_len as usize >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the kernel wrote a `sockaddr_in`, as family and length say; the storage is aligned for it.
                let v4 = unsafe { &*name.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if self.name_len as usize >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: the kernel wrote a `sockaddr_in6`, as family and length say; the storage is aligned for it.
                let v6 = unsafe { &*name.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// Returns a header that sends `vector` back to the datagram's source, from the datagram's destination.
    fn header(&mut self, vector: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: a `msghdr` is a plain C structure, for which zero bytes are a valid value.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = ptr::from_mut(&mut self.name).cast();
        header.msg_namelen = self.name_len;
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        if self.control_len > 0 {
            // The destination that the kernel reported is the source address of the response.
            header.msg_control = self.control.0.as_mut_ptr().cast();
            header.msg_controllen = self.control_len as _;
        }
        header
    }
}

/// Sends the datagrams of `headers`. Returns how many the kernel refused.
///
/// # Safety
/// Each header must point at a name, vectors, buffers and a control buffer that live until the call returns, with their
/// true lengths. The kernel reads them and writes nothing but the headers' `msg_len`.
unsafe fn send_all(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> usize {
    let (mut sent, mut refused) = (0, 0);
    while sent < headers.len() {
        let rest = &mut headers[sent..];
        // SAFETY: the caller's promise holds for each header of `rest`, and the length passed is that of `rest`.
        let count =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as _, libc::MSG_DONTWAIT as _) };
        match usize::try_from(count) {
            Ok(count) if count > 0 => sent += count,
            _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock && wait_until_writable(socket) => {}
            // The first remaining datagram cannot be sent; the others may be sendable.
            _ => (sent, refused) = (sent + 1, refused + 1),
        }
    }
    refused
}

/// Waits up to 10 ms for space in the socket's send buffer; returns whether there is some.
#[cold]
fn wait_until_writable(socket: BorrowedFd<'_>) -> bool {
    const PATIENCE_MS: libc::c_int = 10;
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: the call gets one `pollfd`, which lives until the call returns.
    unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) > 0 }
}

// SAFETY: the pointers in `headers` and `vectors` are written before each use and point into boxes that the batch owns.
// These boxes move to another thread together with the batch.
unsafe impl Send for DatagramBatch {}
