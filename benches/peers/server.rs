//! The servers: their programs, their configurations (the templates beside this file), and their start.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::child::Running;
use crate::floor;
use crate::results::FLOOR;

/// Program and start of a server. In arguments and templates, `%PORT%` is its port, `%ADMIN%` another free port, `%DIR%` its
/// directory and `%FILE%` its configuration. [`Site::edit`] replaces the other placeholders of a template, such as
/// `%UPSTREAM%`.
#[derive(Debug)]
pub struct Server {
    /// Name in the results.
    pub name: &'static str,
    /// Program; `None` if it is part of the project.
    pub program: Option<&'static str>,
    /// Arguments.
    pub args: &'static [&'static str],
    /// Argument that prints the version; `None` if there is none.
    pub version: Option<&'static str>,
    /// File name of the configuration, and its template.
    pub config: Option<(&'static str, &'static str)>,
    /// Additional environment variables.
    pub env: &'static [(&'static str, &'static str)],
}

/// All servers that can be measured.
pub const SERVERS: [Server; 9] = [
    Server { args: &[floor::FLOOR, "%PORT%"], ..Server::new(FLOOR, None) },
    Server {
        args: &["serve", "--no-supervisor", "--config", "%FILE%"],
        version: Some("--version"),
        config: Some(("nodens.toml", include_str!("nodens.toml"))),
        ..Server::new("nodens", None)
    },
    Server {
        args: &["-d", "-c", "%FILE%"],
        version: Some("-V"),
        config: Some(("unbound.conf", include_str!("unbound.conf"))),
        ..Server::new("unbound", Some("unbound"))
    },
    Server {
        args: &["--supervised", "--disable-syslog", "-C", "%FILE%"],
        version: Some("--version"),
        config: Some(("dnsdist.conf", include_str!("dnsdist.conf"))),
        ..Server::new("dnsdist", Some("dnsdist"))
    },
    Server {
        args: &["-n", "-c", "%FILE%", "%DIR%"],
        version: Some("--version"),
        config: Some(("kresd.conf", include_str!("kresd.conf"))),
        ..Server::new("knot-resolver", Some("kresd"))
    },
    Server {
        args: &["--config-dir=%DIR%"],
        version: Some("--version"),
        config: Some(("recursor.conf", include_str!("pdns-recursor.conf"))),
        ..Server::new("pdns-recursor", Some("pdns_recursor"))
    },
    Server {
        args: &["-g", "-n", "1", "-c", "%FILE%"],
        version: Some("-v"),
        config: Some(("named.conf", include_str!("named.conf"))),
        ..Server::new("bind", Some("named"))
    },
    Server {
        args: &["--keep-in-foreground", "--conf-file=%FILE%"],
        version: Some("--version"),
        config: Some(("dnsmasq.conf", include_str!("dnsmasq.conf"))),
        ..Server::new("dnsmasq", Some("dnsmasq"))
    },
    Server {
        args: &["-conf", "%FILE%"],
        version: Some("-version"),
        config: Some(("Corefile", include_str!("Corefile"))),
        env: &[("GOMAXPROCS", "1")],
        ..Server::new("coredns", Some("coredns"))
    },
];

/// Attempts to start a server, because another process may take its port in between.
const TRIES: u32 = 3;
/// Timeout of a start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval between queries until the first response.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Query for `a.new.ci.example.net A`, which all servers answer, including the responder.
const FIRST: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\x03new\x02ci\x07example\x03net\0\0\x01\0\x01";

/// Running server.
#[derive(Debug)]
pub struct Started {
    /// Name of the server.
    pub name: &'static str,
    /// Version that its program prints.
    pub version: String,
    /// Address that it listens on.
    pub address: SocketAddr,
    /// Time from its start to its first response.
    pub start: Duration,
    /// Its process, which ends when this is dropped.
    pub running: Running,
}

/// Directory and limits of a server.
pub struct Site<'a> {
    /// Parent of the server's directory.
    pub dir: &'a Path,
    /// CPU that the server is pinned to.
    pub cpu: Option<usize>,
    /// Soft limit of open files.
    pub open_files: Option<u64>,
    /// Makes the configuration from its template.
    pub edit: &'a dyn Fn(&str) -> String,
}

impl Started {
    /// Returns the server's name and version.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version).trim_end().to_owned()
    }
}

impl Server {
    /// Returns a server without arguments or a configuration.
    pub const fn new(name: &'static str, program: Option<&'static str>) -> Self {
        Self { name, program, args: &[], version: None, config: None, env: &[] }
    }

    /// Returns the file of the program: from `programs` if it is there, or else where it is installed; `None` if it is not.
    pub fn find(&self, programs: &[(String, PathBuf)]) -> Option<PathBuf> {
        let given = programs.iter().rfind(|(name, _)| name == self.name).map(|(_, file)| file.clone());
        let own = || match self.name {
            "nodens" => Some(PathBuf::from(env!("CARGO_BIN_EXE_nodens"))),
            _ => env::current_exe().ok(),
        };
        given.or_else(|| self.program.map_or_else(own, in_path))
    }

    /// Starts the server, and waits for its first response.
    ///
    /// # Errors
    /// Returns an error with the last lines of the log if the server ends, or does not respond in time.
    pub fn start(&self, program: &Path, site: &Site<'_>, stop: &AtomicBool) -> io::Result<Started> {
        let dir = site.dir.join(self.name.replace(' ', "-"));
        std::fs::create_dir_all(&dir)?;
        let log = dir.join("log");
        for _ in 0..TRIES {
            let address = free_address()?;
            let config = self.config.map(|(name, template)| (dir.join(name), template));
            let file = config.as_ref().map_or(&dir, |(file, _)| file);
            let fill = |text: &str| {
                let text = text.replace("%PORT%", &address.port().to_string());
                let text = text.replace("%FILE%", &file.to_string_lossy()).replace("%DIR%", &dir.to_string_lossy());
                if !text.contains("%ADMIN%") {
                    return Ok(text);
                }
                free_address().map(|admin| text.replace("%ADMIN%", &admin.port().to_string()))
            };
            if let Some((file, template)) = &config {
                std::fs::write(file, fill(&(site.edit)(template))?)?;
            }
            let args = self.args.iter().map(|arg| fill(arg)).collect::<io::Result<Vec<String>>>()?;
            let since = Instant::now();
            let mut running = Running::start(program, &args, self.env, site.cpu, site.open_files, &dir, &log)?;
            let answers = first_answer(address, &mut running, stop)?;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if answers {
                let (start, version) = (since.elapsed(), self.version(program));
                return Ok(Started { name: self.name, version, address, start, running });
            }
        }
        let said = std::fs::read(&log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        Err(io::Error::other(format!("it does not answer; it said:\n  {last}")))
    }

    fn version(&self, program: &Path) -> String {
        let Some(arg) = self.version else { return String::new() };
        let output = Command::new(program).arg(arg).stdin(Stdio::null()).output();
        output.map_or(String::new(), |output| {
            let both = [output.stdout, output.stderr].concat();
            version_in(&String::from_utf8_lossy(&both)).to_owned()
        })
    }
}

/// Returns the first word that looks like a version: its leading digits and dots.
fn version_in(text: &str) -> &str {
    let words = text.split(|c: char| c.is_whitespace() || c == '-');
    let number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let word = words.into_iter().find(|word| number(word)).unwrap_or_default();
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    &word[..end]
}

/// Finds a program in PATH, or where systems install service programs.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(OsStr::new(program))).find(|file| file.is_file())
}

/// Returns a port of 127.0.0.1 that is free for UDP and TCP.
fn free_address() -> io::Result<SocketAddr> {
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// Sends queries until there is an answer. Returns false if the program ends or does not answer in time.
fn first_answer(address: SocketAddr, running: &mut Running, stop: &AtomicBool) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(ASK_EVERY))?;
    let since = Instant::now();
    while since.elapsed() < PATIENCE && !running.has_ended() && !stop.load(Ordering::Relaxed) {
        let mut response = [0; 512];
        // A closed port refuses the query at once, without the timeout.
        match socket.send(FIRST).and_then(|_| socket.recv(&mut response)) {
            // A server that is about to serve may respond with an error.
            Ok(len) if len >= 12 && response[3] & 0x0f == 0 => return Ok(true),
            Ok(_) => sleep(ASK_EVERY),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(ASK_EVERY / 10),
            Err(_) => {}
        }
    }
    Ok(false)
}
