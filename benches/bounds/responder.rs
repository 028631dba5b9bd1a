//! A minimal upstream: it answers every question with 192.0.2.1, batch by batch, from one thread.
//!
//! It does not limit the speed at which caches are filled, and it is the floor for measuring a sender.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use socket2::SockRef;

/// Datagrams in one system call.
const BATCH: usize = 64;
/// Length of the largest message, in bytes.
const LARGEST: usize = 600;
/// Record of the answer: the name of the question, A, IN, TTL one day, 192.0.2.1.
pub(crate) const RECORD: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\x01\x51\x80\0\x04\xc0\0\x02\x01";
/// Interval between checks of the stop flag.
const LOOK: Duration = Duration::from_millis(50);

/// Responder that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Responder {
    /// Address that it listens on.
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Responder {
    /// Starts the responder on a free port of 127.0.0.1.
    pub(crate) fn start() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LOOK))?;
        let _ = SockRef::from(&socket).set_recv_buffer_size(4 << 20); // smaller is fine
        let (address, stop) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name("responder".into()).spawn(move || respond(&socket, &told))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn respond(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    let mut messages = Box::new([[0u8; LARGEST]; BATCH]);
    let mut receiving = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut sending = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        let (mut lengths, mut clients) = ([0; BATCH], [None; BATCH]);
        let mut slices = messages.each_mut().map(|message| [IoSliceMut::new(message)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let count = match recvmmsg(socket.as_raw_fd(), &mut receiving, slices.iter_mut(), flags, None) {
            Ok(received) => {
                let places = lengths.iter_mut().zip(&mut clients);
                places.zip(received).map(|((len, client), one)| (*len, *client) = (one.bytes, one.address)).count()
            }
            // The read timeout has passed, or an earlier response was refused.
            Err(_) => continue,
        };
        for (message, length) in messages.iter_mut().zip(&mut lengths).take(count) {
            *length = answer(message, *length);
        }
        let slices: Vec<_> =
            messages.iter().zip(lengths).map(|(message, len)| [IoSlice::new(&message[..len])]).collect();
        let mut sent = 0;
        while sent < count {
            let result = sendmmsg(
                socket.as_raw_fd(),
                &mut sending,
                &slices[sent..count],
                &clients[sent..count],
                [],
                MsgFlags::empty(),
            );
            sent += result.map_or(1, |sent| sent.count().max(1)); // skips a response that cannot be sent
        }
    }
    Ok(())
}

/// Turns a query into its response, in place; returns the length of the response.
fn answer(message: &mut [u8; LARGEST], length: usize) -> usize {
    let mut at = 12;
    while at < length && message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    let end = at + 5;
    if end + RECORD.len() > LARGEST || length < end {
        return 0;
    }
    message[2] |= 0x80;
    message[3] = 0x80;
    message[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    message[end..end + RECORD.len()].copy_from_slice(RECORD);
    end + RECORD.len()
}
