//! A UDP server that spends as little as a program can: takes a batch of packets with one system call, changes each in
//! place, and sends the batch with another.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use socket2::SockRef;

/// Packets of one system call.
const BATCH: usize = 64;
/// Bytes of a packet; there is room to make a reply longer than its query.
pub const PACKET: usize = 2_048;
/// Room for bursts, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;

/// Serves for ever. `turn` makes the reply to a query in its own buffer, from the query's length to the reply's; 0 sends
/// nothing.
///
/// # Errors
/// What the system says of the socket.
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
        // What gets no reply gives its place to the last of the batch.
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
        // A client that is gone does not matter.
        let _ = sendmmsg(socket.as_raw_fd(), &mut sending, slices, clients, [], MsgFlags::empty());
    }
}
