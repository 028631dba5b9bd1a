//! Death of every process of a server, as pods see it: how long until the next good response, and how many queries are lost before it,
//! after it, and when the server is back.
//!
//! ```text
//! this process, in a network namespace: the node ── bridge ── pod of the client: 20,000 queries a second over UDP, and over TCP
//!                                        the server  │           a connection for each query
//!                                                    └─ pod of kube-dns: another nodens, which knows the same name
//! kube-proxy's part: a DNAT rule from the ClusterIP to the pod of kube-dns
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::sync::Arc;

/// Server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mortal {
    Nodens,
    NodensWithoutFallback,
    Unbound,
    Dnsdist,
}

/// Address of the server on the node.
const ADDRESS: &str = "169.254.20.10";
/// ClusterIP and pod of kube-dns.
const KUBE_DNS: [&str; 2] = ["10.96.0.10", "10.244.1.51"];
const CLIENT: &str = "10.244.1.11";
/// Query for `n0.load.example A`.
const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x02n0\x04load\x07example\0\0\x01\0\x01";
/// Queries a second over UDP, from this number of sockets.
const RATE: u64 = 20_000;
const SOCKETS: usize = 64;
/// Pause between two queries over TCP.
const TCP_PAUSE: Duration = Duration::from_millis(10);
/// Time after which a query counts as lost.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Time with load before the death, without the server, and after its return.
const PHASES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(4)];
/// Time for a server to start.
const START: Duration = Duration::from_secs(20);

/// One query, in time since the beginning.
#[derive(Clone, Copy)]
struct Asked {
    sent: Duration,
    answered: Option<Duration>,
}

/// Makes a network namespace for the node and runs this program in it.
pub(crate) fn run(binary: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("deaths: skipped: needs root");
        return Ok(());
    }
    for tool in ["unshare", "nsenter", "ip", "nft"] {
        if Command::new(tool).arg("--version").output().is_err() && Command::new(tool).arg("-V").output().is_err() {
            println!("deaths: skipped: needs {tool}");
            return Ok(());
        }
    }
    let this = std::env::current_exe()?;
    let status = Command::new("unshare").arg("--net").arg(this).arg("--node").arg("--binary").arg(binary).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("the measurement of deaths failed")) }
}

/// Measures all servers; called in the namespace of the node.
pub(crate) fn measure_all(binary: &Path) -> io::Result<()> {
    let node = Node::new(binary)?;
    println!(
        "\nKilled under {RATE} queries a second over UDP and 100 over TCP, started again after {} s",
        PHASES[1].as_secs()
    );
    println!(
        "{:<26} {:>12} {:>10} {:>16} {:>16} {:>14}",
        "", "ms, UDP", "ms, TCP", "lost until then", "lost after that", "lost at return"
    );
    for (mortal, label) in [
        (Mortal::Nodens, "nodens"),
        (Mortal::NodensWithoutFallback, "nodens, fallback = none"),
        (Mortal::Unbound, "unbound"),
        (Mortal::Dnsdist, "dnsdist"),
    ] {
        match node.measure(mortal) {
            Ok(Some(line)) => println!("{label:<26} {line}"),
            Ok(None) => println!("{label:<26} skipped: it is not installed"),
            Err(error) => println!("{label:<26} failed: {error}"),
        }
    }
    Ok(())
}

/// The node, with two pods.
struct Node {
    binary: PathBuf,
    dir: PathBuf,
    client: Killed,
    _kube_dns: [Killed; 2],
}

/// Process group that is killed at the end.
struct Killed(Child);

impl Killed {
    fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }

    fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Node {
    fn new(binary: &Path) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("nodens-deaths-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        for line in [
            "ip link set lo up",
            "ip link add pods type bridge",
            "ip address add 10.244.1.1/24 dev pods",
            "ip link set pods up",
            "ip route add default via 10.244.1.254",
            "nft add table ip kube-proxy",
            "nft add chain ip kube-proxy services { type nat hook prerouting priority -100 ; }",
            "nft add chain ip kube-proxy leave { type nat hook postrouting priority 100 ; }",
            &format!(
                "nft add rule ip kube-proxy services ip daddr {} udp dport 53 dnat to {}",
                KUBE_DNS[0], KUBE_DNS[1]
            ),
            &format!(
                "nft add rule ip kube-proxy services ip daddr {} tcp dport 53 dnat to {}",
                KUBE_DNS[0], KUBE_DNS[1]
            ),
            "nft add rule ip kube-proxy leave ct status dnat masquerade",
        ] {
            must(line)?;
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let (client, kube_dns) = (pod(CLIENT)?, pod(KUBE_DNS[1])?);
        let config = dir.join("kube-dns.toml");
        fs::write(&config, text(KUBE_DNS[1], ""))?;
        let inside = ["--net", "--target", &kube_dns.0.id().to_string()].map(str::to_owned);
        let mut command = Command::new("nsenter");
        command.args(inside).arg(binary).args(["serve", "--no-supervisor", "--config"]).arg(&config);
        let server = Killed::start(&mut command)?;
        let node = Self { binary: binary.to_owned(), dir, client, _kube_dns: [kube_dns, server] };
        node.answers(KUBE_DNS[1])?;
        Ok(node)
    }

    /// Waits until a server answers the client.
    fn answers(&self, address: &str) -> io::Result<()> {
        let (pod, to) = (self.client.0.id(), server(address)?);
        let ask = move || {
            enter(pod)?;
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let deadline = Instant::now() + START;
            while Instant::now() < deadline {
                let mut response = [0; 512];
                if socket.send_to(QUERY, to).is_ok()
                    && socket.recv(&mut response).is_ok_and(|length| is_good(&response[..length]))
                {
                    return Ok(());
                }
            }
            Err(io::Error::other(format!("{to} does not answer")))
        };
        spawn(ask).join().map_err(|_| io::Error::other("a thread panicked"))?
    }

    /// Returns the command that starts a server; `None` if it is not installed.
    fn command(&self, mortal: Mortal) -> io::Result<Option<Command>> {
        let config = self.dir.join(format!("{mortal:?}"));
        let (program, args, text): (PathBuf, &[&str], String) = match mortal {
            Mortal::Nodens | Mortal::NodensWithoutFallback => {
                let fallback = if mortal == Mortal::Nodens { KUBE_DNS[0] } else { "none" };
                let node = format!("[node]\naddresses = [\"{ADDRESS}\"]\nfallback = \"{fallback}\"\n");
                (self.binary.clone(), &["serve", "--config"], text(ADDRESS, &node))
            }
            Mortal::Unbound => (
                "unbound".into(),
                &["-d", "-c"],
                format!(
                    "server:\n  interface: {ADDRESS}\n  access-control: 0.0.0.0/0 allow\n  num-threads: 1\n  \
                     directory: \"{}\"\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  \
                     local-data: \"n0.load.example. A 192.0.2.1\"\n",
                    self.dir.display()
                ),
            ),
            Mortal::Dnsdist => (
                "dnsdist".into(),
                &["--supervised", "--disable-syslog", "-C"],
                format!(
                    "setLocal(\"{ADDRESS}:53\")\nsetACL(\"0.0.0.0/0\")\naddAction(AllRule(), SpoofAction(\"192.0.2.1\"))\n"
                ),
            ),
        };
        if Command::new(&program).arg("-h").output().is_err() {
            return Ok(None);
        }
        fs::write(&config, text)?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program).args(args).arg(config);
        Ok(Some(command))
    }

    /// Kills a server under load and starts it again; returns the columns of its row.
    fn measure(&self, mortal: Mortal) -> io::Result<Option<String>> {
        let Some(mut command) = self.command(mortal)? else { return Ok(None) };
        let is_nodens = matches!(mortal, Mortal::Nodens | Mortal::NodensWithoutFallback);
        if !is_nodens {
            must(&format!("ip address add {ADDRESS}/32 dev lo"))?;
        }
        let mut mortal = Killed::start(&mut command)?;
        self.answers(ADDRESS)?;
        let (over, start, pod) = (Arc::new(AtomicBool::new(false)), Instant::now(), self.client.0.id());
        let to = server(ADDRESS)?;
        let load = |ask: fn(u32, SocketAddr, Instant, &AtomicBool) -> io::Result<Vec<Asked>>| {
            let over = Arc::clone(&over);
            spawn(move || ask(pod, to, start, &over))
        };
        let (udp, tcp) = (load(ask_udp), load(ask_tcp));
        sleep(PHASES[0]);
        let death = start.elapsed();
        mortal.kill();
        sleep(PHASES[1]);
        let back = start.elapsed();
        let mut again = Killed::start(&mut command)?;
        sleep(PHASES[2]);
        over.store(true, Ordering::Relaxed);
        let [udp, tcp] = [udp, tcp].map(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked")));
        let (udp, tcp) = (udp??, tcp??);
        again.kill();
        must(if is_nodens { "nft delete table inet nodens" } else { "true" })?;
        must(&format!("ip address del {ADDRESS}/32 dev lo"))?;
        // A query that is in flight at the death may be lost with the server's sockets, or answered by its successor.
        let next = |asked: &[Asked]| asked.iter().filter(|one| one.sent > death).filter_map(|one| one.answered).min();
        let (next_udp, next_tcp) = (next(&udp), next(&tcp));
        let shown = |next: Option<Duration>| next.map_or("-".to_owned(), |at| format!("{}", (at - death).as_millis()));
        let lost = |from: Duration, to: Duration| {
            let within = |one: &&Asked| one.sent >= from && one.sent < to && one.answered.is_none();
            [&udp, &tcp].map(|asked| asked.iter().filter(within).count()).iter().sum::<usize>()
        };
        let next = next_udp.max(next_tcp).unwrap_or(back);
        let columns = format!(
            "{:>12} {:>10} {:>16} {:>16} {:>14}",
            shown(next_udp),
            shown(next_tcp),
            lost(death.saturating_sub(TIMEOUT), next),
            if next < back { lost(next, back).to_string() } else { "-".to_owned() },
            lost(back.max(next), start.elapsed()),
        );
        Ok(Some(columns))
    }
}

/// Returns a configuration of nodens that knows the name of [`QUERY`].
fn text(address: &str, more: &str) -> String {
    format!(
        "[server]\nlisten = [\"{address}\"]\nworkers = 1\nallow = [\"10.244.1.0/24\"]\n{more}[upstreams.up]\nservers = [\"127.0.0.1:9\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n\
         [[record]]\nname = \"n0.load.example\"\ntype = \"A\"\nvalue = \"192.0.2.1\"\n"
    )
}

/// Sends queries at a steady rate from the pod of the client.
fn ask_udp(pod: u32, to: SocketAddr, start: Instant, over: &AtomicBool) -> io::Result<Vec<Asked>> {
    enter(pod)?;
    let socket = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let sockets = (0..SOCKETS).map(|_| socket()).collect::<io::Result<Vec<_>>>()?;
    let (mut asked, begin): (Vec<Asked>, Duration) = (Vec::new(), start.elapsed());
    let mut query = QUERY.to_vec();
    let mut end = None;
    loop {
        let now = start.elapsed();
        if over.load(Ordering::Relaxed) && end.is_none() {
            end = Some(now + TIMEOUT);
        }
        if end.is_some_and(|end| now > end) {
            return Ok(asked);
        }
        let due = ((now - begin).as_secs_f64() * RATE as f64) as usize;
        while asked.len() < due && end.is_none() {
            // The id and the socket tell which query a response is to.
            let number = asked.len();
            query[..2].copy_from_slice(&((number / SOCKETS) as u16).to_be_bytes());
            let _ = sockets[number % SOCKETS].send(&query);
            asked.push(Asked { sent: start.elapsed(), answered: None });
        }
        let mut response = [0; 512];
        for (at, socket) in sockets.iter().enumerate() {
            while let Ok(length) = socket.recv(&mut response) {
                let id = usize::from(u16::from_be_bytes([response[0], response[1]]));
                let now = start.elapsed();
                if let Some(one) = asked.get_mut(id * SOCKETS + at).filter(|_| is_good(&response[..length])) {
                    one.answered = Some(now).filter(|now| *now - one.sent < TIMEOUT);
                }
            }
        }
        sleep(Duration::from_micros(500));
    }
}

/// Sends one query after the other from the pod of the client, each over a connection of its own.
fn ask_tcp(pod: u32, to: SocketAddr, start: Instant, over: &AtomicBool) -> io::Result<Vec<Asked>> {
    enter(pod)?;
    let ask = || {
        // A connection to a dead address would wait for the kernel's next SYN, a second later.
        let patience = Duration::from_millis(100);
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&[&(QUERY.len() as u16).to_be_bytes(), QUERY].concat())?;
        let mut response = [0; 512];
        let length = stream.read(&mut response)?;
        Ok::<_, io::Error>(response.get(2..length).is_some_and(is_good))
    };
    let mut asked = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let sent = start.elapsed();
        let good = ask().unwrap_or(false);
        asked.push(Asked { sent, answered: good.then(|| start.elapsed()) });
        sleep(TCP_PAUSE);
    }
    Ok(asked)
}

/// Returns whether a message is a response with an answer.
fn is_good(message: &[u8]) -> bool {
    message.len() > 7 && message[3] & 0x0f == 0 && message[7] > 0
}

fn server(address: &str) -> io::Result<SocketAddr> {
    format!("{address}:53").parse().map_err(io::Error::other)
}

/// Moves this thread to the network namespace of a process.
fn enter(process: u32) -> io::Result<()> {
    Ok(setns(File::open(format!("/proc/{process}/ns/net"))?, CloneFlags::CLONE_NEWNET)?)
}

/// Starts a pod on the bridge.
fn pod(address: &str) -> io::Result<Killed> {
    let mut command = Command::new("unshare");
    let pod = Killed::start(command.args(["--net", "sleep", "300"]))?;
    let id = pod.0.id();
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let deadline = Instant::now() + START;
    while namespace(&id.to_string()) == namespace("self") && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
    must(&format!("ip link add veth{id} type veth peer name eth0 netns {id}"))?;
    must(&format!("ip link set veth{id} master pods up"))?;
    for line in [
        "link set lo up",
        "link set eth0 up",
        &format!("address add {address}/24 dev eth0"),
        "route add default via 10.244.1.1",
    ] {
        must(&format!("nsenter --net --target {id} ip {line}"))?;
    }
    Ok(pod)
}

/// Runs a command that must succeed.
fn must(line: &str) -> io::Result<()> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    let error = || io::Error::other(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    if output.status.success() { Ok(()) } else { Err(error()) }
}
