//! The built program as a process: started with a configuration, measured for CPU time and memory, killed at the end.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Setting;

/// Timeout of a start, and of reading the metrics.
const PATIENCE: Duration = Duration::from_secs(10);

/// Query for a name that nodens answers itself.
pub(crate) const LOCALHOST: &[u8] = b"\x4e\x4f\x01\0\0\x01\0\0\0\0\0\0\x09localhost\0\0\x01\0\x01";

/// Running nodens, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    /// Address that it listens on.
    pub(crate) address: SocketAddr,
    /// Address of its admin pages.
    pub(crate) admin: SocketAddr,
    /// Time from before exec to the first response.
    pub(crate) first_answer: Duration,
}

/// Configuration of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// `server.workers`.
    pub(crate) workers: usize,
    /// `cache.memory`, in MiB.
    pub(crate) cache_mib: usize,
    /// Upstream of names outside `dead.example.`.
    pub(crate) upstream: SocketAddr,
    /// Upstream of names in `dead.example.`.
    pub(crate) dead: Option<SocketAddr>,
}

impl Server {
    /// Starts the server; returns after its first response.
    pub(crate) fn start(setting: &Setting, config: Config) -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bounds-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir)?;
        let (address, admin) = (free_port()?, free_port()?);
        let file = dir.join("nodens.toml");
        fs::write(&file, config.text(address, admin))?;
        let mut command = Command::new(&setting.binary);
        command.args(["serve", "--no-supervisor"]).arg("--config").arg(&file).env("NODENS_LOG", "off");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn()?;
        let mut server = Self { child, dir, address, admin, first_answer: Duration::ZERO };
        server.await_answer(started)?;
        Ok(server)
    }

    fn await_answer(&mut self, started: Instant) -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let mut response = [0; 512];
        while started.elapsed() < PATIENCE {
            // Refused until the server listens.
            if socket.send(LOCALHOST).is_ok() && socket.recv(&mut response).is_ok() {
                self.first_answer = started.elapsed();
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("nodens ended with {status}")));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Returns the CPU time, user and system, of all threads so far, in nanoseconds.
    pub(crate) fn cpu(&self) -> io::Result<u64> {
        cpu_of(self.child.id())
    }

    /// Returns the resident memory, in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: Option<u64> = line.split_whitespace().next().and_then(|kib| kib.parse().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
    }

    /// Sends a signal, given by name.
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().map(drop)
    }

    /// Returns the metrics page.
    pub(crate) fn metrics(&self) -> io::Result<String> {
        let mut connection = TcpStream::connect(self.admin)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: nodens\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        connection.read_to_string(&mut page)?;
        Ok(page)
    }

    /// Returns the value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> io::Result<f64> {
        let page = self.metrics()?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| io::Error::other(format!("no metric {name}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Config {
    fn text(&self, address: SocketAddr, admin: SocketAddr) -> String {
        let Self { workers, cache_mib, upstream, dead } = self;
        let mut text = format!(
            "[server]\nlisten = [\"{address}\"]\nallow = [\"127.0.0.0/8\"]\nworkers = {workers}\n\
             [admin]\nlisten = \"{admin}\"\n[cache]\nmemory = \"{cache_mib}MiB\"\n\
             [upstreams.up]\nservers = [\"{upstream}\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n"
        );
        if let Some(dead) = dead {
            text += &format!(
                "[upstreams.dead]\nservers = [\"{dead}\"]\n[[route]]\nzones = [\"dead.example\"]\nto = \"dead\"\n"
            );
        }
        text
    }
}

/// Returns the CPU time of a process's threads so far, in nanoseconds.
pub(crate) fn cpu_of(process: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread that has just ended counts as zero.
        let times = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += times.split(' ').next().and_then(|run| run.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Returns a port of 127.0.0.1 that is free for UDP and TCP. Another process may take it before it is used.
fn free_port() -> io::Result<SocketAddr> {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = udp.local_addr()?;
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
}
