//! A UDP server with minimal cost: it receives a batch of datagrams with one system call, changes each in place, and sends
//! the batch with another.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use socket2::SockRef;

/// Datagrams in one system call.
const BATCH: usize = 64;
/// Size of a datagram's buffer, in bytes, with room for a response longer than its query.
pub const PACKET: usize = 2_048;
/// Receive buffer size for bursts, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;

/// Serves forever. `turn` writes the response to a query in the query's buffer. It takes the query's length and returns the
/// response's; for 0, nothing is sent.
///
/// # Errors
/// Returns the error of a system call on the socket.
pub fn serve(socket: &UdpSocket, turn: fn(&mut [u8; PACKET], usize) -> usize) -> io::Result<()> {
    let _ = SockRef::from(socket).set_recv_buffer_size(SOCKET_BUFFER); // smaller is fine
    let mut buffers = Box::new([[0; PACKET]; BATCH]);
    let mut receiving = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut sending = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let (mut lengths, mut clients) = ([0; BATCH], [None; BATCH]);
    loop {
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let mut count = 0;
        match recvmmsg(socket.as_raw_fd(), &mut receiving, slices.iter_mut(), flags, None) {
            Ok(packets) => {
                for packet in packets {
                    (lengths[count], clients[count]) = (packet.bytes, packet.address);
                    count += 1;
                }
            }
            Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(error) => return Err(error.into()),
        }
        // The last datagram of the batch replaces one that gets no response.
        let mut at = 0;
        while at < count {
            lengths[at] = turn(&mut buffers[at], lengths[at]);
            if lengths[at] > 0 {
                at += 1;
                continue;
            }
            count -= 1;
            buffers.swap(at, count);
            (lengths[at], clients[at]) = (lengths[count], clients[count]);
        }
        let slices: [_; BATCH] = std::array::from_fn(|at| [IoSlice::new(&buffers[at][..lengths[at]])]);
        let (slices, clients) = (&slices[..count], &clients[..count]);
        // Responses to clients that are gone are dropped.
        let _ = sendmmsg(socket.as_raw_fd(), &mut sending, slices, clients, [], MsgFlags::empty());
    }
}
