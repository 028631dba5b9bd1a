//! Many clients below their limit, and a few far beyond it.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::SockRef;

use crate::attack::Target;
use crate::packets::{A, query};
use crate::scene::cached;

/// `client_max_qps` of the view that the clients are in.
const LIMIT: u64 = 3;
/// Number of clients beyond the limit.
const GREEDY: u64 = 10;

/// Number of clients that send one query a second each: four times as many as nodens has places for.
const MODEST: u64 = 16_000;
/// Queries a second of each greedy client.
const GREED: u64 = 60;
/// Network (/16) of the modest clients; the greedy ones are in the next one.
const NETWORK: [u8; 2] = [127, 66];
const PAUSE: Duration = Duration::from_millis(1);
/// Receive buffer of the modest clients, in bytes. It is small because their responses are not read.
const RECEIVE_BUFFER: usize = 4_096;

/// Returns the view of all these clients, in the configuration of nodens.
pub fn view() -> String {
    let [first, second] = NETWORK;
    let sources = format!("\"{first}.{second}.0.0/16\", \"{first}.{}.0.0/16\"", second + 1);
    format!("[[view]]\nname = \"limited\"\nsources = [{sources}]\nclient_max_qps = {LIMIT}\n")
}

/// Returns the number of answers that the greedy clients may get in a time: a burst of one second, and then the limit.
pub fn allowed(time: Duration) -> u64 {
    GREEDY * LIMIT * (time.as_secs() + 2)
}

/// Sends the queries of all clients, and counts the answers of the greedy ones, until the attack is over.
pub fn ask(target: &Target) -> io::Result<()> {
    let modest = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    SockRef::from(&modest).set_recv_buffer_size(RECEIVE_BUFFER)?;
    let SocketAddr::V4(server) = target.address else { return Err(io::Error::other("the server has no IPv4 address")) };
    let greedy = (1..=GREEDY).map(|number| greedy(number, target.address)).collect::<io::Result<Vec<_>>>()?;
    let message = query(1, &cached(0), A);
    let start = Instant::now();
    let (mut of_modest, mut of_each_greedy) = (0, 0);
    while !target.is_over() {
        let seconds = start.elapsed().as_secs_f64();
        let mut sent = 0;
        while of_modest < (seconds * MODEST as f64) as u64 && !target.is_over() {
            sent += u64::from(send_from(&modest, source(of_modest % MODEST), server, &message).is_ok());
            of_modest += 1;
        }
        while of_each_greedy < (seconds * GREED as f64) as u64 {
            sent += greedy.iter().filter(|socket| socket.send(&message).is_ok()).count() as u64;
            of_each_greedy += 1;
        }
        target.count(sent);
        target.count_answered(greedy.iter().map(answers).sum());
        sleep(PAUSE);
    }
    Ok(())
}

/// Returns the address of a modest client.
fn source(number: u64) -> Ipv4Addr {
    let [high, low] = (number as u16 + 256).to_be_bytes(); // not from the addresses below .1.0, which other attacks use
    Ipv4Addr::new(NETWORK[0], NETWORK[1], high, low)
}

fn greedy(number: u64, server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::new(NETWORK[0], NETWORK[1] + 1, 0, number as u8), 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends a message with this source address.
fn send_from(socket: &UdpSocket, source: Ipv4Addr, to: SocketAddrV4, message: &[u8]) -> nix::Result<usize> {
    let source = in_addr { s_addr: u32::from(source).to_be() };
    let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(message)], &control, MsgFlags::empty(), Some(&SockaddrIn::from(to)))
}

/// Reads the responses that have arrived; returns how many of them are answers.
fn answers(socket: &UdpSocket) -> u64 {
    let mut response = [0; 512];
    let mut answers = 0;
    while let Ok(length) = socket.recv(&mut response) {
        answers += u64::from(length > 3 && response[3] & 0x0f == 0);
    }
    answers
}
