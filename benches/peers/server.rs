//! The servers: their programs, their configurations (the templates beside this file), and how they are started.

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

/// How a server is started. In arguments and templates `%PORT%` is its port, `%ADMIN%` another free one, `%DIR%` its own
/// directory and `%FILE%` its configuration; what else a template has, `%UPSTREAM%` above all, [`Site::edit`] fills in.
#[derive(Debug)]
pub struct Server {
    /// What it is called here.
    pub name: &'static str,
    /// Its program; none is one that comes with the project.
    pub program: Option<&'static str>,
    /// Its arguments.
    pub args: &'static [&'static str],
    /// What makes it tell its version; none if it has none.
    pub version: Option<&'static str>,
    /// The name of its configuration, and the template.
    pub config: Option<(&'static str, &'static str)>,
    /// What its environment has besides.
    pub env: &'static [(&'static str, &'static str)],
}

/// All servers that may be measured.
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

/// How often a server is started; its port may be taken by somebody else in between.
const TRIES: u32 = 3;
/// How long a server may take to its first answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked until then.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// `a.new.ci.example.net A`, which all answer; the responder too.
const FIRST: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\x03new\x02ci\x07example\x03net\0\0\x01\0\x01";

/// A server that answers.
#[derive(Debug)]
pub struct Started {
    /// What it is called.
    pub name: &'static str,
    /// What it says of itself.
    pub version: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// From its start to its first answer.
    pub start: Duration,
    /// It runs until this is dropped.
    pub running: Running,
}

/// Where and how a server is started.
pub struct Site<'a> {
    /// It gets a directory of its own in this one.
    pub dir: &'a Path,
    /// The CPU that it is kept on.
    pub cpu: Option<usize>,
    /// Its soft limit of open files.
    pub open_files: Option<u64>,
    /// Makes its configuration from its template.
    pub edit: &'a dyn Fn(&str) -> String,
}

impl Started {
    /// Its name and version.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version).trim_end().to_owned()
    }
}

impl Server {
    /// A server without arguments or a configuration.
    pub const fn new(name: &'static str, program: Option<&'static str>) -> Self {
        Self { name, program, args: &[], version: None, config: None, env: &[] }
    }

    /// Where its program is: as `programs` say, or else where it is installed; none if it is not.
    pub fn find(&self, programs: &[(String, PathBuf)]) -> Option<PathBuf> {
        let given = programs.iter().rfind(|(name, _)| name == self.name).map(|(_, file)| file.clone());
        let own = || match self.name {
            "nodens" => Some(PathBuf::from(env!("CARGO_BIN_EXE_nodens"))),
            _ => env::current_exe().ok(),
        };
        given.or_else(|| self.program.map_or_else(own, in_path))
    }

    /// Starts it, and waits for its first answer.
    ///
    /// # Errors
    /// It ends, or does not answer in time; its last words are told.
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

/// The first word that looks like a version: digits and dots, whatever follows.
fn version_in(text: &str) -> &str {
    let words = text.split(|c: char| c.is_whitespace() || c == '-');
    let number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let word = words.into_iter().find(|word| number(word)).unwrap_or_default();
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    &word[..end]
}

/// A program in PATH, or where a system keeps those of its services.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(OsStr::new(program))).find(|file| file.is_file())
}

/// A port that nobody has, for UDP and TCP.
fn free_address() -> io::Result<SocketAddr> {
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// Asks until there is an answer; false if the program has ended or has none for too long.
fn first_answer(address: SocketAddr, running: &mut Running, stop: &AtomicBool) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(ASK_EVERY))?;
    let since = Instant::now();
    while since.elapsed() < PATIENCE && !running.has_ended() && !stop.load(Ordering::Relaxed) {
        let mut reply = [0; 512];
        // A closed port is told at once, and not waited for.
        match socket.send(FIRST).and_then(|_| socket.recv(&mut reply)) {
            // A server that is about to listen may say that it cannot answer yet.
            Ok(len) if len >= 12 && reply[3] & 0x0f == 0 => return Ok(true),
            Ok(_) => sleep(ASK_EVERY),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(ASK_EVERY / 10),
            Err(_) => {}
        }
    }
    Ok(false)
}
