//! Recognition of another nodens on this node that offers no handover.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Time limit for each step of the request.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most reads of the response, and most bytes of each.
const READS: usize = 4;
const LONGEST: usize = 4 << 10;

/// Returns whether a nodens serves its admin pages at one of these addresses.
pub(super) fn is_nodens(admin: &[SocketAddr]) -> bool {
    admin.iter().any(|address| names_itself(*address).unwrap_or(false))
}

fn names_itself(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let (mut response, mut part) = (Vec::new(), vec![0; LONGEST]);
    for _ in 0..READS {
        match stream.read(&mut part)? {
            0 => break,
            len => response.extend_from_slice(&part[..len]),
        }
    }
    let response = String::from_utf8_lossy(&response);
    Ok(response.split_once("\r\n\r\n").is_some_and(|(_, body)| body.starts_with("nodens ")))
}
