//! The servers as processes.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

/// Timeout of a start, and of a stop.
const PATIENCE: Duration = Duration::from_secs(20);
/// Interval between checks.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Query for `n0.load.example A`, which all servers answer.
const FIRST: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02n0\x04load\x07example\0\0\x01\0\x01";

/// Server program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// nodens, with its supervisor and a handover socket.
    Nodens,
    /// Unbound, configured as in the side-by-side run (`benches/peers`).
    Unbound,
    /// dnsdist, configured as in the side-by-side run.
    Dnsdist,
}

/// Directory and ports of servers that run one after the other.
pub(crate) struct Site {
    /// Directory of their files.
    pub(crate) dir: PathBuf,
    binary: PathBuf,
    port: u16,
    admin: u16,
    upstream: SocketAddr,
}

/// Running server.
pub(crate) struct Server {
    /// Its program.
    pub(crate) kind: Kind,
    child: Child,
    log: PathBuf,
}

impl Site {
    /// Creates a new directory, and chooses free ports.
    pub(crate) fn new(binary: &Path, upstream: SocketAddr) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("nodens-handover-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let free = || Ok::<_, io::Error>(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        Ok(Self { dir, binary: binary.to_owned(), port: free()?, admin: free()?, upstream })
    }

    /// Returns the address that clients query.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Starts a server; returns once it serves, or `None` if it is not installed.
    pub(crate) fn start(&self, kind: Kind) -> io::Result<Option<Server>> {
        let handover = format!("[handover]\nsocket = {:?}\n", self.dir.join("run/handover.sock"));
        let (program, template, args): (PathBuf, String, &[&str]) = match kind {
            Kind::Nodens => (
                self.binary.clone(),
                include_str!("../peers/nodens.toml").to_owned() + &handover,
                &["serve", "--log", "json", "--config"],
            ),
            Kind::Unbound => ("unbound".into(), include_str!("../peers/unbound.conf").to_owned(), &["-d", "-c"]),
            Kind::Dnsdist => (
                "dnsdist".into(),
                include_str!("../peers/dnsdist.conf").to_owned(),
                &["--supervised", "--disable-syslog", "-C"],
            ),
        };
        let text = [
            ("%PORT%", self.port.to_string()),
            ("%ADMIN%", self.admin.to_string()),
            ("%UPSTREAM%", self.upstream.port().to_string()),
            ("%DIR%", self.dir.display().to_string()),
        ]
        .iter()
        .fold(template, |text, (mark, value)| text.replace(mark, value));
        let number = fs::read_dir(&self.dir)?.count();
        let (config, log) = (self.dir.join(format!("config-{number}")), self.dir.join(format!("log-{number}")));
        fs::write(&config, text)?;
        let out = File::create(&log)?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(&program).args(args).arg(&config).stdout(out.try_clone()?).stderr(out);
        if kind != Kind::Nodens && Command::new(&program).arg("-h").output().is_err() {
            return Ok(None);
        }
        let mut server = Server { kind, child: command.spawn()?, log };
        server.answers(self.address())?;
        Ok(Some(server))
    }
}

impl Server {
    /// Waits until the server serves: nodens logs it, because a predecessor may still respond; a peer sends its first
    /// response.
    fn answers(&mut self, address: SocketAddr) -> io::Result<()> {
        if self.kind == Kind::Nodens {
            return self.logged("nodens serves", 1).map(drop);
        }
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answered = socket.send(FIRST).is_ok() && socket.recv(&mut [0; 512]).is_ok();
            if answered {
                return Ok(());
            }
            self.lives(deadline)?;
        }
    }

    /// Waits until the log has `count` lines with `text`; returns the last of them.
    fn logged(&mut self, text: &str, count: usize) -> io::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(&self.log)?;
            if let Some(line) = log.lines().filter(|line| line.contains(text)).nth(count - 1) {
                return Ok(line.to_owned());
            }
            self.lives(deadline)?;
        }
    }

    fn lives(&mut self, deadline: Instant) -> io::Result<()> {
        if self.child.try_wait()?.is_some() || Instant::now() > deadline {
            return Err(io::Error::other(format!("it does not serve; see {}", self.log.display())));
        }
        sleep(LOOK_EVERY);
        Ok(())
    }

    /// Kills the worker; returns for how many milliseconds no worker served.
    pub(crate) fn kill_worker(&mut self) -> io::Result<u64> {
        let replaced = "\"worker replaced";
        let count = fs::read_to_string(&self.log)?.lines().filter(|line| line.contains(replaced)).count();
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id()))?;
        let worker = children.split_whitespace().next().ok_or_else(|| io::Error::other("no worker"))?;
        Command::new("kill").args(["-s", "KILL", worker]).status()?;
        let line = self.logged(replaced, count + 1)?;
        let before = line.split(" ms ago").next().and_then(|text| text.rsplit(' ').next()?.parse().ok());
        before.ok_or_else(|| io::Error::other(line))
    }

    /// Stops the server; returns once it has ended.
    pub(crate) fn stop(&mut self) -> io::Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
            }
            sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the CPUs that the server does not use, in the syntax of taskset; the server's CPU if there is no other.
pub(crate) fn other_cpus() -> String {
    match available_parallelism().map_or(1, usize::from) {
        1 => "0".to_owned(),
        count => format!("1-{}", count - 1),
    }
}
