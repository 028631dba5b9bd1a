//! The built `nodens` as a process, scripted upstreams, and clients that send raw DNS messages.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use tokio::runtime::Runtime;

pub(crate) mod api;
pub(crate) mod client;
pub(crate) mod musl;
pub(crate) mod page;
pub(crate) mod pod;
pub(crate) mod space;

/// Limit for every wait, far above any expected duration; a test that reaches it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// Longest pause between two looks at something that is waited for.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// Runtime of the scripted upstreams.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

/// A running nodens, killed on drop.
pub(crate) struct Nodens {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    dir: Dir,
    /// Listening addresses, in the order of the configuration file.
    pub(crate) listen: Vec<SocketAddr>,
    /// Address of the admin pages.
    pub(crate) admin: Option<SocketAddr>,
}

/// A temporary directory, removed on drop.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("process-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.file(name);
        fs::write(&file, text).expect("writes");
        file
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Nodens {
    /// Starts nodens with this configuration; returns once it accepts queries.
    pub(crate) fn start(config: &str) -> Self {
        let dir = Dir::new();
        let file = dir.write("nodens.toml", config);
        Self::spawn(serve().arg("--config").arg(file), dir)
    }

    /// Runs a command that starts nodens; returns once it accepts queries.
    pub(crate) fn spawn(command: &mut Command, dir: Dir) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("nodens starts");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (lines, stderr) = (Arc::clone(&log), BufReader::new(child.stderr.take().expect("piped")));
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().expect("a lock").push(line);
            }
        });
        let mut nodens = Self { child, log, reader: Some(reader), dir, listen: Vec::new(), admin: None };
        nodens.logged("nodens serves");
        let address = |line: &String| field(line, "address").parse::<SocketAddr>().expect("an address");
        let log = nodens.log();
        nodens.listen = log.iter().filter(|line| line.contains("listening on UDP and TCP")).map(address).collect();
        nodens.admin = log.iter().find(|line| line.contains("admin pages")).map(address);
        nodens
    }

    /// Runs a command that starts nodens at these addresses, without reading its log; returns once it accepts queries.
    pub(crate) fn spawn_unheard(command: &mut Command, dir: Dir, listen: SocketAddr, admin: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).spawn().expect("nodens starts");
        let mut nodens =
            Self { child, log: Arc::default(), reader: None, dir, listen: vec![listen], admin: Some(admin) };
        eventually("nodens to serve", || {
            assert_eq!(nodens.ended(), None);
            let serves = || TcpStream::connect(admin).is_ok() && TcpStream::connect(listen).is_ok();
            serves().then_some(())
        });
        nodens
    }

    /// Returns the first listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen[0]
    }

    /// Returns the path of the configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.file("nodens.toml")
    }

    /// Returns the directory of this instance, for more files.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns the log lines so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("a lock").clone()
    }

    /// Waits for a log line that contains `text`.
    pub(crate) fn logged(&mut self, text: &str) -> String {
        eventually(&format!("a line with {text:?}"), || {
            let ended = self.ended();
            let line = self.log().into_iter().find(|line| line.contains(text));
            if let (None, Some(status)) = (&line, ended) {
                panic!("nodens ended with {status} before it logged {text:?}");
            }
            line
        })
    }

    /// Sends a signal, by name such as "TERM", to the process that was started.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.child.id(), name);
    }

    /// Returns the id of the process that was started.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the id of the worker process, if there is one now.
    pub(crate) fn worker(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// Stops the current worker process as SIGSTOP does, and returns its id. On return none of its threads runs; `CONT`
    /// lets them continue.
    pub(crate) fn freeze(&self) -> u32 {
        let worker = self.worker().expect("a worker");
        freeze(worker);
        worker
    }

    /// Kills the started process and its worker; returns when both are dead.
    pub(crate) fn kill(&mut self) {
        let worker = self.worker().expect("a worker");
        // Otherwise the supervisor would replace the worker.
        self.signal("STOP");
        send_signal(worker, "KILL");
        self.signal("KILL");
        self.exit();
        eventually("its worker's end", || states(worker).is_none_or(|states| states == "Z").then_some(()));
    }

    /// Stops nodens by SIGTERM, which it takes as no error.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.exit().code(), Some(0));
    }

    /// Waits until nodens exits.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        eventually("the end of nodens", || self.ended())
    }

    /// Returns the exit status once nodens has exited, after reading the rest of its log.
    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child")?;
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log is read");
        }
        Some(status)
    }
}

impl Drop for Nodens {
    fn drop(&mut self) {
        let worker = self.worker();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The worker notices that its supervisor is gone, and holds the sockets until it exits.
        let deadline = Instant::now() + DEADLINE;
        while worker.and_then(states).is_some_and(|states| states != "Z") && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        if thread::panicking() {
            println!("the log of nodens: {:#?}", self.log());
        }
    }
}

/// Sends a signal, by name, to a process.
pub(crate) fn send_signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// Stops a process as SIGSTOP does; on return none of its threads runs.
pub(crate) fn freeze(process: u32) {
    send_signal(process, "STOP");
    eventually("all threads to be stopped", || states(process)?.chars().all(|state| state == 'T').then_some(()));
}

/// Returns the state of each thread of a process, see proc_pid_stat(5); `None` if there is no such process.
pub(crate) fn states(process: u32) -> Option<String> {
    let state = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?.flatten();
    Some(tasks.filter_map(|task| state(fs::read_to_string(task.path().join("stat")).ok()?)).collect())
}

/// Returns the command `nodens serve` with a JSON log.
pub(crate) fn serve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
    command.args(["serve", "--log", "json"]).env_remove("NODENS_LOG");
    command
}

/// Runs `nodens serve` with a configuration that it must reject; returns the exit code and the lines on stderr.
pub(crate) fn refused(config: &str, prepare: impl FnOnce(&mut Command)) -> (Option<i32>, Vec<String>) {
    let dir = Dir::new();
    let mut command = serve();
    command.arg("--config").arg(dir.write("nodens.toml", config));
    prepare(&mut command);
    let output = command.output().expect("nodens runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect())
}

/// Returns a configuration that routes all names to `servers`, listens on 127.0.0.1 and has admin pages. `server` and
/// `upstream` are additional lines for those tables.
pub(crate) fn config(servers: &[&LabUpstream], server: &str, upstream: &str) -> String {
    let listen = if server.contains("listen") { "" } else { "listen = [\"127.0.0.1:0\"]\n" };
    let servers: Vec<_> = servers.iter().map(|upstream| upstream.address().to_string()).collect();
    format!(
        "[server]\n{listen}{server}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstreams.up]\nservers = {servers:?}\n{upstream}\n[[route]]\nzones = [\".\"]\nto = \"up\"\n"
    )
}

/// Starts a scripted upstream on 127.0.0.1.
pub(crate) fn upstream(zone: LabZone) -> LabUpstream {
    upstream_on((Ipv4Addr::LOCALHOST, 0).into(), zone)
}

/// Starts a scripted upstream on this address.
pub(crate) fn upstream_on(address: SocketAddr, zone: LabZone) -> LabUpstream {
    RUNTIME.block_on(LabUpstream::start(address, zone)).expect("an upstream")
}

/// Closes the sockets of an upstream.
pub(crate) fn stop(upstream: &LabUpstream) {
    RUNTIME.block_on(upstream.stop());
}

/// Reopens the sockets of an upstream.
pub(crate) fn restart(upstream: &LabUpstream) {
    RUNTIME.block_on(async { upstream.restart() }).expect("a socket");
}

/// Returns a zone in which every name below `lab.example` has an IPv4 and an IPv6 address.
pub(crate) fn zone() -> LabZone {
    LabZone::new("lab.example.").record("*.lab.example. 300 A 192.0.2.1").record("*.lab.example. 300 AAAA 2001:db8::1")
}

/// Calls `look` until it returns a value; panics after `DEADLINE`. What takes longer is looked at less often, as tests run
/// side by side and pages cost as much as queries.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Returns the text of a field of a JSON log line.
pub(crate) fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let start = format!("\"{key}\":\"");
    let rest = line.split_once(&start).unwrap_or_else(|| panic!("no {key} in {line}")).1;
    rest.split('"').next().unwrap_or_default()
}
