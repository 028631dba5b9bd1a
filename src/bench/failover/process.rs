//! Process of a server under test: runs in a directory of its own, is ready when it accepts connections, and ends on drop.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::server::{TestedServer, TestedServerSetup};

/// Maximum attempts to start a server: another process may take the free port first.
const START_TRIES: u32 = 3;

/// Maximum time until a server listens.
const START_PATIENCE: Duration = Duration::from_secs(15);

/// Interval between checks that the server listens.
const LOOK: Duration = Duration::from_millis(10);

/// Additional time for a listening server to finish its start.
const SETTLE: Duration = Duration::from_millis(300);

/// Maximum lines of a server's log in an error.
const LOG_LINES: usize = 5;

/// A running server.
#[derive(Debug)]
pub struct Process {
    child: Child,
    address: SocketAddr,
    _dir: Dir,
}

/// A temporary directory, removed on drop.
#[derive(Debug)]
struct Dir(PathBuf);

impl Process {
    /// Starts a server on a free port of `ip`; returns when the server accepts queries.
    ///
    /// # Errors
    /// The system's error if it cannot be started; the end of its log if it exits or does not listen.
    pub async fn start(server: TestedServer, program: &Path, ip: IpAddr, upstreams: &[SocketAddr]) -> io::Result<Self> {
        let mut tries = 1;
        loop {
            match Self::try_start(server, program, ip, upstreams).await {
                Err(_) if tries < START_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// Returns the address that accepts queries.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns whether the process is still running.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    async fn try_start(server: TestedServer, program: &Path, ip: IpAddr, upstreams: &[SocketAddr]) -> io::Result<Self> {
        let dir = Dir::new()?;
        let place = TestedServerSetup { listen: free(ip)?, upstreams, dir: &dir.0 };
        let (config, log) = (dir.0.join("config"), dir.0.join("log"));
        fs::write(&config, server.config(&place))?;
        let output = File::create(&log)?;
        let child = Command::new(program)
            .args(server.arguments(&config.display().to_string(), &place))
            .current_dir(&dir.0)
            .env_remove("NODENS_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let address = place.listen;
        let mut process = Self { child, address, _dir: dir };
        let start = Instant::now();
        let failed = |trouble: String| Err(io::Error::other(format!("{trouble}; its log ends:\n{}", end_of(&log))));
        while TcpStream::connect(address).await.is_err() {
            match process.child.try_wait()? {
                Some(status) => return failed(format!("{} ended with {status}", server.program())),
                None if start.elapsed() > START_PATIENCE => {
                    return failed(format!("{} does not listen", server.program()));
                }
                None => sleep(LOOK).await,
            }
        }
        sleep(SETTLE).await;
        // Another process may have taken the port first, and accepted the connection.
        match process.child.try_wait()? {
            Some(status) => failed(format!("{} ended with {status}", server.program())),
            None => Ok(process),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed without a clean shutdown: neither its cache nor its log is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dir {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("nodens-failover-{}-{count}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns an address whose port is free for UDP and TCP at this moment.
fn free(ip: IpAddr) -> io::Result<SocketAddr> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..100 {
        let listener = TcpListener::bind((ip, 0))?;
        let address = listener.local_addr()?;
        match UdpSocket::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn end_of(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_is_told_with_its_log() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let upstreams = [SocketAddr::new(ip, 9); 2];
        let error =
            Process::start(TestedServer::Unbound, Path::new("/bin/ls"), ip, &upstreams).await.unwrap_err().to_string();
        assert!(error.starts_with("unbound ended with exit status: "), "{error}");
        assert!(error.contains("config"), "ls names the file that it takes -c or -d with: {error}");
        let missing = Process::start(TestedServer::Unbound, Path::new("/no/such/program"), ip, &upstreams).await;
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
