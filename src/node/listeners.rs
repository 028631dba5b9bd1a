//! Sockets of all processes of the node that listen on an address, from the kernel's lists in `/proc/net`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

/// A list of sockets, and the state in it of those that listen: UDP sockets without a peer, and TCP listeners.
type SocketList = (&'static str, &'static str);
pub(super) const UDP: &[SocketList] = &[("/proc/net/udp", "07"), ("/proc/net/udp6", "07")];
pub(super) const TCP: &[SocketList] = &[("/proc/net/tcp", "0A"), ("/proc/net/tcp6", "0A")];

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListeningSocket {
    pub(super) address: SocketAddr,
    pub(super) inode: u64,
}

/// Number of times that a list is read. The kernel continues a read by position, so it skips a socket if one before it is closed.
const READS: usize = 3;

/// Returns the sockets that listen. A list that cannot be read counts as empty: a kernel without IPv6 has none for it.
pub(super) fn listening(lists: &[SocketList]) -> HashSet<ListeningSocket> {
    let of = |(file, state): &SocketList| {
        let lines = File::open(file).into_iter().flat_map(|file| BufReader::new(file).lines().map_while(Result::ok));
        lines.filter_map(|line| read(&line, state)).collect::<Vec<_>>()
    };
    (0..READS).flat_map(|_| lists.iter().flat_map(of)).collect()
}

/// Returns the number by which the kernel's lists identify a socket.
///
/// # Errors
/// The process has no file descriptor left.
pub(crate) fn inode(socket: &OwnedFd) -> io::Result<u64> {
    Ok(File::from(socket.try_clone()?).metadata()?.ino())
}

/// Returns the numbers of sockets that listen at this address, for UDP and TCP, apart from those with the inodes `own`.
pub(crate) fn others_at(address: SocketAddr, own: &HashSet<u64>) -> [usize; 2] {
    [UDP, TCP].map(|lists| {
        listening(lists).iter().filter(|socket| socket.address == address && !own.contains(&socket.inode)).count()
    })
}

/// Reads a line of a list: number, own address, address of the peer, state, and the inode as tenth field.
fn read(line: &str, wanted: &str) -> Option<ListeningSocket> {
    let mut fields = line.split_whitespace();
    let (address, state, inode) = (fields.nth(1)?, fields.nth(1)?, fields.nth(5)?);
    let (ip, port) = address.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let address = SocketAddr::new(read_ip(ip)?, port);
    (state == wanted).then_some(ListeningSocket { address, inode: inode.parse().ok()? })
}

/// Reads an address: numbers of 32 bits in the host's byte order.
fn read_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn own_sockets_are_listed() {
        for ip in ["127.0.0.1", "::1"] {
            let Ok(udp) = UdpSocket::bind((ip, 0)) else { continue };
            let tcp = TcpListener::bind((ip, 0)).expect("a listener");
            let expected = [
                (udp.local_addr().expect("an address"), OwnedFd::from(udp.try_clone().expect("a copy"))),
                (tcp.local_addr().expect("an address"), OwnedFd::from(tcp.try_clone().expect("a copy"))),
            ];
            let listening = listening(&[UDP, TCP].concat());
            for (address, socket) in expected {
                let inode = inode(&socket).expect("an inode");
                assert!(listening.contains(&ListeningSocket { address, inode }), "{address} {inode}");
            }
        }
    }

    #[test]
    fn lines_of_another_form_are_left_out() {
        let line =
            "  12: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0";
        assert_eq!(read(line, "07").map(|socket| socket.inode), Some(4711));
        for line in [
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            "12: 0100007F:0035 00000000:0000 07",
            "12: 0100007:0035 00000000:0000 07 0:0 0:0 0 0 0 4711",
            "12: 0100007F 00000000:0000 07 0:0 0:0 0 0 0 4711",
            "12: 0100007Fä:0035 00000000:0000 07 0:0 0:0 0 0 0 4711",
            "",
        ] {
            assert_eq!(read(line, "07"), None, "{line}");
        }
        assert_eq!(read(line, "01"), None);
    }
}
