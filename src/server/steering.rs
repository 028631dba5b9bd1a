//! Choice among sockets of several programs on one address.
//!
//! All sockets with SO_REUSEPORT on one address and port are one group for the kernel, in the order in which they began to listen. A
//! hash of the client's address selects one of them, so a program beside nodens would get a part of the queries. A program of
//! classic BPF selects by number instead (SO_ATTACH_REUSEPORT_CBPF, socket(7)): nodens came last, and its sockets have the last
//! numbers. If the others are gone, a number may be beyond the last, and the hash selects again.

use std::io;
use std::os::fd::AsFd;

use nix::setsockopt_impl;
use nix::sys::socket::{setsockopt, sockopt};

/// Codes of instructions, without operands.
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const ADD: u32 = libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_A;
/// Place of a random number, for instructions that load a word of the packet.
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;

#[derive(Clone, Copy, Debug)]
struct DetachReusePortBpf;
setsockopt_impl!(
    DetachReusePortBpf,
    libc::SOL_SOCKET,
    libc::SO_DETACH_REUSEPORT_BPF,
    bool,
    nix::sys::socket::sockopt::SetBool
);

/// Directs new queries to these `sockets`, which began to listen after this number of `others`. Without others, the kernel's hash selects.
///
/// # Errors
/// The kernel refuses: then the hash selects.
pub(crate) fn prefer<S: AsFd>(sockets: &[S], others: usize) -> io::Result<()> {
    let Some(socket) = sockets.first() else { return Ok(()) };
    if others == 0 {
        return release(socket);
    }
    let (Ok(first), Ok(count)) = (u32::try_from(others), u32::try_from(sockets.len())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let step = |(code, k)| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [(LOAD_WORD, RANDOM), (MODULO, count), (ADD, first), (RETURN, 0)].map(step);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program).map_err(Into::into)
}

/// Lets the kernel's hash select among all sockets of this socket's group.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn release(socket: &impl AsFd) -> io::Result<()> {
    match setsockopt(socket, DetachReusePortBpf, &true) {
        // There was no program, or the kernel is older than Linux 5.3.
        Ok(()) | Err(nix::Error::ENOENT | nix::Error::ENOPROTOOPT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn bind(address: SocketAddr) -> UdpSocket {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), None).expect("a socket");
        socket.set_reuse_port(true).expect("an option");
        socket.bind(&address.into()).expect("an address");
        socket.into()
    }

    #[test]
    fn own_sockets_get_all_and_share_evenly() {
        let other = bind("127.0.0.1:0".parse().expect("an address"));
        let address = other.local_addr().expect("an address");
        let own = [bind(address), bind(address), bind(address)];
        // From many sockets, since a hash would select for each of them.
        let received = |sockets: &[&UdpSocket]| {
            for _ in 0..200 {
                let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                client.send_to(&[0], address).expect("sends");
            }
            let count = |socket: &&UdpSocket| std::iter::from_fn(|| socket.recv(&mut [0]).ok()).count();
            sockets.iter().map(count).collect::<Vec<_>>()
        };
        let all: Vec<_> = own.iter().collect();
        let with_other = [&[&other][..], &all].concat();
        let by_hash = received(&with_other);
        assert!(by_hash.iter().all(|count| *count > 15), "{by_hash:?}");
        prefer(&own, 1).expect("a program");
        let steered = received(&with_other);
        assert!(steered[0] == 0 && steered[1..].iter().all(|count| *count > 25), "{steered:?}");
        assert_eq!(steered.iter().sum::<usize>(), 200);
        // Nothing is lost when the other is gone, and the hash selects evenly once nodens has seen that.
        drop(other);
        assert_eq!(received(&all).iter().sum::<usize>(), 200);
        for _ in 0..2 {
            release(&own[0]).expect("no program");
            let by_hash = received(&all);
            assert!(by_hash.iter().all(|count| *count > 25), "{by_hash:?}");
        }
    }
}
