//! The run: each attack on each server, one after the other.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::attack::{Attack, Target};
use crate::child::pin;
use crate::honest::{self, HonestStats};
use crate::machine::{machine, today};
use crate::options::Options;
use crate::packets::{TXT, framed, query};
use crate::processes::{RESIDENT, cpu_time, memory};
use crate::results::{BeyondLimit, FLOOR, Latencies, Results, Row, table};
use crate::scene::{BIG, Scene};
use crate::server::{SERVERS, Server, Site, Started};
use crate::session::{Dir, cpus, interrupted, say, stop_on_signal, write};
use crate::soak::Soak;
use crate::watch::watch;
use crate::{many_clients, visits};

/// Field of the peak resident memory in `/proc/PID/status`.
const PEAK: &str = "VmHWM:";
/// Timeout of each read of the large answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// State shared by all measurements.
struct Setting<'a> {
    options: &'a Options,
    dir: &'a Path,
    cpu: Option<usize>,
    open_files: u64,
    scene: &'a Scene,
    stop: &'a AtomicBool,
}

/// Runs the measurements that the options select.
///
/// # Errors
/// Returns an error if nothing could be started, a file cannot be written, or the user ended the run.
pub fn run(options: &Options) -> io::Result<()> {
    if options.list {
        let list =
            Attack::value_variants().iter().map(|attack| format!("{:<20}{}\n", attack.name(), attack.describe()));
        return io::stdout().write_all(list.collect::<String>().as_bytes());
    }
    let stop: Arc<AtomicBool> = stop_on_signal();
    let dir = Dir::new("abuse")?;
    let (servers_cpu, load_cpu) = cpus()?;
    match (servers_cpu, load_cpu) {
        (Some(one), Some(other)) => say(&format!("servers on CPU {one}, load and upstreams on CPU {other}")),
        _ => say("one CPU: servers, load and upstreams share it, and compete for it"),
    }
    let machine = machine(); // before this program is pinned to one CPU
    // This program opens a thousand connections of its own. Servers get the limit that it was started with.
    let (open_files, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    if let Some(cpu) = load_cpu {
        pin(cpu)?; // and all threads that start from here on
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let scene = runtime.block_on(Scene::start())?;
    let setting = Setting { options, dir: &dir.0, cpu: servers_cpu, open_files, scene: &scene, stop: &stop };
    let mut results = Results {
        date: today(),
        machine,
        seconds: options.under_attack().as_secs_f64(),
        servers: BTreeMap::new(),
        skipped: Vec::new(),
        idle: BTreeMap::new(),
        rows: Vec::new(),
    };
    let servers = installed(options, &mut results.skipped);
    if let Some(minutes) = options.soak {
        return setting.soak(&servers, Duration::from_secs(60 * minutes));
    }
    let ended = measure(&setting, &servers, &mut results);
    io::stdout().write_all(table(&results).as_bytes())?;
    if results.rows.is_empty() && ended.is_ok() {
        return Err(io::Error::other("no server could be attacked"));
    }
    ended
}

/// Returns the selected servers that are installed; adds the others to `skipped`.
fn installed(options: &Options, skipped: &mut Vec<String>) -> Vec<(&'static Server, PathBuf)> {
    let wanted =
        |server: &&Server| options.servers.is_empty() || options.servers.iter().any(|name| name == server.name);
    let found = SERVERS.iter().filter(wanted).filter_map(|server| {
        let program = server.find(&options.programs);
        if program.is_none() {
            skipped.push(format!("{}: not installed: skipped", server.name));
        }
        program.map(|program| (server, program))
    });
    found.collect()
}

fn measure(setting: &Setting<'_>, servers: &[(&Server, PathBuf)], results: &mut Results) -> io::Result<()> {
    let only = &setting.options.only;
    let mut idle: BTreeMap<&str, HonestStats> = BTreeMap::new();
    for attack in Attack::value_variants().iter().filter(|attack| only.is_empty() || only.contains(attack)) {
        if !attack.can_run() {
            results.skipped.push(format!("{}: skipped: it needs root", attack.name()));
            continue;
        }
        for (server, program) in servers.iter().filter(|(server, _)| attack.is_for(server.name)) {
            let measured = setting.attack(*attack, server, program);
            interrupted(setting.stop)?;
            let (title, before, row) = match measured {
                Ok(measured) => measured,
                Err(error) => {
                    say(&format!("{}: {}: could not be measured: {error}", attack.name(), server.name));
                    continue;
                }
            };
            say(&row.line());
            let all = idle.entry(server.name).or_insert(HonestStats::new()?);
            all.add(&before);
            results.idle.insert(server.name.to_owned(), Latencies::from(&*all));
            results.servers.insert(server.name.to_owned(), title);
            results.rows.push(row);
            // Results so far are kept if the run is interrupted.
            write(setting.options.json.as_deref(), || {
                Ok(serde_json::to_string(&results)?.replace("},{\"attack", "},\n{\"attack") + "\n")
            })?;
        }
    }
    Ok(())
}

impl Setting<'_> {
    /// Runs one attack on a new process of a server. Returns the server's name and version, the outcomes of the honest
    /// client before the attack, and the row.
    fn attack(&self, attack: Attack, server: &Server, program: &Path) -> io::Result<(String, HonestStats, Row)> {
        let dir = self.dir.join(attack.name());
        std::fs::create_dir_all(&dir)?;
        let edit = |template: &str| self.scene.config(server.name, template, attack);
        let open_files = Some(attack.open_files().unwrap_or(self.open_files));
        let unread = (attack == Attack::UnreadLog).then(|| full_pipe(&dir.join(server.name))).transpose()?;
        let site = Site { dir: &dir, cpu: self.cpu, open_files, edit: &edit };
        let mut started = server.start(program, &site, self.stop)?;
        say(&format!("{}: started in {:.0} ms", started.title(), started.start.as_secs_f64() * 1e3));
        honest::warm(started.address, self.stop)?;
        if attack == Attack::UnreadTcpHits && server.name != FLOOR {
            cache_large_answer(started.address)?;
        }
        let idle = honest::ask(started.address, honest::RATE, self.options.idle(), self.stop)?;
        let row = self.under_attack(attack, &mut started, &dir)?;
        drop(unread); // its reader, which never reads, has to exist until here
        Ok((started.title(), idle, row))
    }

    /// Runs all attacks on one process of nodens.
    fn soak(&self, servers: &[(&Server, PathBuf)], time: Duration) -> io::Result<()> {
        let nodens = servers.iter().find(|(server, _)| server.name == "nodens");
        let (server, program) = nodens.ok_or_else(|| io::Error::other("nodens is not among the servers"))?;
        // The configuration for reloads has everything that the other attacks need.
        let edit = |template: &str| self.scene.config(server.name, template, Attack::ReloadInALoop);
        let site = Site { dir: self.dir, cpu: self.cpu, open_files: Some(self.open_files), edit: &edit };
        let started = server.start(program, &site, self.stop)?;
        honest::warm(started.address, self.stop)?;
        cache_large_answer(started.address)?;
        let target = || self.target(&started, self.dir);
        Soak { target: &target, time, stop: self.stop }.run()
    }

    fn target(&self, started: &Started, dir: &Path) -> Target {
        let config = dir.join(started.name).join("nodens.toml");
        Target {
            address: started.address,
            admin: admin(&config),
            process: started.running.group(),
            config,
            is_nodens: started.name == "nodens",
            well: Arc::clone(&self.scene.well),
            over: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    fn under_attack(&self, attack: Attack, started: &mut Started, dir: &Path) -> io::Result<Row> {
        let group = started.running.group();
        let target = self.target(started, dir);
        let start = Instant::now();
        let seen = || if attack == Attack::SameCname { self.scene.slow.seen_count() } else { self.scene.seen() };
        let (cpu_before, seen_before) = (cpu_time(group), seen());
        let (stats, visits, cpu, watched) = thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(target.address.port(), group, &target.over));
            let attacker = scope.spawn(|| attack.run(&target));
            let visitor = scope.spawn(|| visits::make(target.address, target.admin, &target.over));
            let stats = honest::ask(target.address, honest::RATE, self.options.under_attack(), self.stop);
            let cpu = cpu_time(group).saturating_sub(cpu_before);
            target.over.store(true, Ordering::Relaxed);
            let failed = |_| io::Error::other("a thread panicked");
            let (watched, attacked) = (watcher.join().map_err(failed), attacker.join().map_err(failed));
            attacked.and_then(|attacked| attacked)?;
            let visits = visitor.join().map_err(failed)?;
            Ok::<_, io::Error>((stats?, visits, cpu, watched.and_then(|watched| watched)?))
        })?;
        let attacked = start.elapsed();
        let sent = target.sent.load(Ordering::Relaxed);
        let upstream = seen() - seen_before;
        let died = started.running.has_ended();
        let peak_mib = mib(memory(group, PEAK) << 10);
        let after_mib = (started.name != FLOOR).then(|| {
            let since = Instant::now();
            while since.elapsed() < self.options.after() && !self.stop.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(50));
            }
            mib(memory(group, RESIDENT) << 10)
        });
        Ok(Row {
            attack: attack.name(),
            server: started.name.to_owned(),
            peak_mib,
            after_mib,
            sockets_mib: watched.sockets.map(mib),
            cpu_s: (cpu.as_secs_f64() * 100.0).round() / 100.0,
            honest: Latencies::from(&stats),
            visits: (started.name != FLOOR).then_some(visits),
            upstream_queries: if attack == Attack::SameCname {
                upstream / sent.div_ceil(1_000).max(1)
            } else {
                upstream
            },
            sent,
            beyond_limit: (attack == Attack::ManyClients).then(|| BeyondLimit {
                answered: target.answered.load(Ordering::Relaxed),
                allowed: many_clients::allowed(attacked),
            }),
            died,
            ended_early: watched.ended_early,
        })
    }
}

/// Makes the server cache the large answer, and reads the whole response.
fn cache_large_answer(server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&framed(&query(1, BIG, TXT)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut response = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut response)?;
    if response.len() < 60_000 {
        return Err(io::Error::other(format!("it gives {} bytes instead of the large answer", response.len())));
    }
    Ok(())
}

/// Returns the address of the admin pages in the configuration of nodens; `None` for other servers.
fn admin(config: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(config).ok()?;
    let rest = text.split("[admin]\nlisten = \"").nth(1)?;
    rest.split('"').next()?.parse().ok()
}

/// Makes the log of a server a full pipe, which is not read until the returned file is dropped.
fn full_pipe(dir: &Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("log");
    if !path.exists() {
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    }
    // Opening a FIFO for reading and writing does not wait for a reader.
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    while pipe.write(b"full\n").is_ok() {}
    Ok(pipe)
}

/// Converts bytes to MiB, rounded to a tenth.
fn mib(bytes: u64) -> f64 {
    (bytes as f64 * 10.0 / f64::from(1 << 20)).round() / 10.0
}
