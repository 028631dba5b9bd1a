//! Random faults for a while: every query gets exactly one response, no answer is wrong, and SERVFAIL occurs only if no
//! server of the route was well from the beginning of the query to its end.
//!
//! `NODENS_SOAK_SECONDS` sets the duration; `NODENS_SOAK_SEED` repeats the faults of a failed run.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::support::client::{EXTENDED_ERROR, Tcp, code, data, extended_error, id, query_with_option, receive, udp};
use crate::support::{Nodens, restart, stop, upstream_on};
use hickory_proto::op::ResponseCode;
use nodens::lab::fault::{Behaviour, Forgery, Tcp as LabTcp};
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::{LabZone, address_of};

/// Default duration in seconds.
const SECONDS: u64 = 5;
/// Clients: whether each uses TCP, and its number of queries in flight.
const CLIENTS: [(bool, u16); 6] = [(false, 1), (false, 1), (false, 1), (false, 1), (true, 8), (true, 1)];
/// Servers of each route. In the first two routes at least one is always well.
const ROUTES: [usize; 3] = [2, 3, 2];
/// Limit on the growth of peak memory from the first half to the second, in bytes.
const GROWTH: f64 = 24e6;

/// xorshift64*: the seed determines the sequence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}

/// A server, and the periods in which it has been well.
struct Server {
    upstream: LabUpstream,
    stopped: AtomicBool,
    well: Mutex<Vec<(Instant, Option<Instant>)>>,
}

impl Server {
    fn new(address: IpAddr) -> Self {
        let upstream = upstream_on((address, 0).into(), LabZone::new("example.").addresses_from_names());
        upstream.set_latency(Duration::from_millis(1));
        Self { upstream, stopped: AtomicBool::new(false), well: Mutex::new(vec![(Instant::now(), None)]) }
    }

    fn is_well(&self) -> bool {
        self.well.lock().expect("a lock").last().is_some_and(|(_, until)| until.is_none())
    }

    fn was_well(&self, from: Instant, to: Instant) -> bool {
        self.well
            .lock()
            .expect("a lock")
            .iter()
            .any(|(since, until)| *since <= from && until.is_none_or(|end| end >= to))
    }

    /// Breaks the server, or makes it well.
    fn change(&self, to_well: bool, dice: &mut Dice) {
        if self.is_well() && !to_well {
            self.well.lock().expect("a lock").last_mut().expect("it was well").1 = Some(Instant::now());
        }
        if self.stopped.swap(false, Ordering::Relaxed) {
            restart(&self.upstream);
        }
        let normal = Behaviour::normal;
        let behaviour = match (to_well, dice.below(if to_well { 4 } else { 11 })) {
            (true, 0) => normal().slower(5),
            (true, 1) => Behaviour::truncated(),
            (true, _) => normal(),
            (false, 0) => {
                self.stopped.store(true, Ordering::Relaxed);
                return stop(&self.upstream);
            }
            (false, 1) => Behaviour::rcode(2),
            (false, 2) => Behaviour::rcode(5),
            (false, 3) => normal().lose_percent(30, dice.below(1_000)),
            (false, 4) => Behaviour::bytes(*b"\xff\x00 this is no message of DNS"),
            (false, 5) => Behaviour::forged(Forgery::OtherPort),
            (false, 6) => Behaviour::forged(Forgery::WrongId),
            (false, 7) => Behaviour::forged(Forgery::WrongQuestion),
            (false, 8) => Behaviour::truncated().tcp(LabTcp::Silent),
            (false, 9) => Behaviour::truncated().tcp(LabTcp::Refuse),
            (false, _) => Behaviour::silent(),
        };
        self.upstream.set(behaviour);
        if to_well && !self.is_well() {
            self.well.lock().expect("a lock").push((Instant::now(), None));
        }
    }
}

struct Soak {
    address: SocketAddr,
    routes: Vec<Vec<Server>>,
    done: AtomicBool,
    sent: AtomicU64,
    failed: AtomicU64,
}

impl Soak {
    fn config(&self, turn: u64) -> String {
        let mut text = "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n\
                        [cache]\nmemory = \"2MiB\"\n"
            .to_owned();
        for (route, servers) in self.routes.iter().enumerate() {
            let mut servers: Vec<_> = servers.iter().map(|server| server.upstream.address().to_string()).collect();
            let select = ["ordered", "spread", "fastest"][((turn + route as u64) % 3) as usize];
            // In a route with a server that is always well, only a machine that stalls this long can delay an answer.
            let deadline = if route == ROUTES.len() - 1 { "4s" } else { "10s" };
            let count = servers.len() as u64;
            servers.rotate_left((turn / 3 % count) as usize);
            text += &format!(
                "[upstreams.r{route}]\nservers = {servers:?}\nselect = {select:?}\ndeadline = {deadline:?}\n\
                 [[route]]\nzones = [\"r{route}.example\"]\nto = \"r{route}\"\n"
            );
        }
        text + "[[route]]\nzones = [\".\"]\nto = \"r0\"\n"
    }

    /// Changes random servers until the test is over.
    fn trouble(&self, mut dice: Dice) {
        while !self.done.load(Ordering::Relaxed) {
            let route = dice.below(self.routes.len() as u64) as usize;
            let servers = &self.routes[route];
            let server = &servers[dice.below(servers.len() as u64) as usize];
            let others_well = servers.iter().filter(|other| !std::ptr::eq(*other, server) && other.is_well()).count();
            let may_break = others_well > 0 || route == ROUTES.len() - 1;
            let to_well = !may_break || dice.below(2) == 0;
            server.change(to_well, &mut dice);
            std::thread::sleep(Duration::from_millis(20 + dice.below(150)));
        }
    }

    /// Sends queries until the test is over: for new names, and sometimes for a name that was just answered.
    fn ask(&self, client: usize, mut dice: Dice) {
        let (tcp, together) = CLIENTS[client];
        let (socket, mut stream) = (udp(self.address), tcp.then(|| Tcp::connect(self.address)));
        let mut known: Option<(String, usize)> = None;
        let mut number = 0_u64;
        while !self.done.load(Ordering::Relaxed) {
            let mut asked = Vec::new();
            for slot in 0..together {
                number += 1;
                let again = known.take().filter(|_| dice.below(4) == 0);
                let (name, route) = again.unwrap_or_else(|| {
                    let route = dice.below(self.routes.len() as u64) as usize;
                    (format!("{number}-{client}.r{route}.example"), route)
                });
                let id = (number as u16).wrapping_mul(16) | slot;
                let query = query_with_option(id, &name, EXTENDED_ERROR);
                self.sent.fetch_add(1, Ordering::Relaxed);
                asked.push((id, name, route, Instant::now()));
                match &mut stream {
                    Some(stream) => stream.send(&query),
                    None => _ = socket.send(&query).expect("sends"),
                }
            }
            while !asked.is_empty() {
                let response = stream.as_mut().map_or_else(|| receive(&socket), Tcp::receive);
                let at =
                    asked.iter().position(|(asked, ..)| *asked == id(&response)).expect("one reply for each query");
                let (_, name, route, sent) = asked.swap_remove(at);
                self.check(&response, &name, route, sent);
                known = (code(&response) == ResponseCode::NoError).then_some((name, route)).or(known);
            }
        }
        assert_no_more(&socket);
    }

    fn check(&self, response: &[u8], name: &str, route: usize, sent: Instant) {
        if code(response) == ResponseCode::NoError {
            return assert_eq!(data(response), [address_of(name).to_string()], "{name}");
        }
        let now = Instant::now();
        assert_eq!(code(response), ResponseCode::ServFail, "{name}");
        self.failed.fetch_add(1, Ordering::Relaxed);
        let well: Vec<_> = self.routes[route].iter().map(|server| server.was_well(sent, now)).collect();
        assert!(
            !well.contains(&true),
            "{name}: SERVFAIL after {:?} ({:?}), though well: {well:?}",
            now - sent,
            extended_error(response)
        );
    }
}

/// Checks that no further response arrives.
fn assert_no_more(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("a socket");
    assert!(socket.recv(&mut [0; 512]).is_err(), "a second reply");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")))
}

#[test]
fn every_query_is_right_while_faults_come_and_go() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let seed = number("NODENS_SOAK_SEED").unwrap_or(now) | 1;
    let lasts = Duration::from_secs(number("NODENS_SOAK_SECONDS").unwrap_or(SECONDS));
    println!("NODENS_SOAK_SEED={seed}");
    let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let address = |server: usize| match v6 && server == 1 {
        true => IpAddr::V6(Ipv6Addr::LOCALHOST),
        false => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let routes = ROUTES.map(|count| (0..count).map(|server| Server::new(address(server))).collect());
    let mut soak = Soak {
        address: ([127, 0, 0, 1], 0).into(),
        routes: routes.into(),
        done: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    };
    let nodens = Nodens::start(&soak.config(0));
    soak.address = nodens.address();
    let (soak, nodens) = (&soak, &nodens);
    let dice = |number: u64| Dice(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);

    let memory = std::thread::scope(|scope| {
        // A thread that fails ends the test for all.
        let over = OnDrop(&soak.done);
        let mut threads = vec![scope.spawn(move || {
            let _over = OnDrop(&soak.done);
            soak.trouble(dice(0));
        })];
        threads.extend((0..CLIENTS.len()).map(|client| {
            scope.spawn(move || {
                let _over = OnDrop(&soak.done);
                soak.ask(client, dice(1 + client as u64));
            })
        }));
        let (start, mut turn) = (Instant::now(), 0);
        let mut memory = Vec::new();
        while start.elapsed() < lasts && !soak.done.load(Ordering::Relaxed) {
            std::thread::sleep((lasts / 8).min(Duration::from_millis(1_300)));
            memory.push(nodens.metric("process_resident_memory_bytes", &[]));
            turn += 1;
            let new = nodens.dir().write("new.toml", &soak.config(turn));
            fs::rename(new, nodens.config()).expect("a swap");
            nodens.signal("HUP");
        }
        drop(over);
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        assert!(ends.iter().all(Result::is_ok), "NODENS_SOAK_SEED={seed}");
        memory
    });

    let (sent, failed) = (soak.sent.load(Ordering::Relaxed), soak.failed.load(Ordering::Relaxed));
    nodens.metric_becomes("nodens_responses_total", &[], |count| count == sent as f64);
    nodens.metric_becomes("nodens_pending_queries", &[], |pending| pending == 0.0);
    assert!(nodens.metric("nodens_config_reloads_total", &[("result", "applied")]) >= 1.0);
    assert_eq!(nodens.metric("nodens_config_reloads_total", &[("result", "rejected")]), 0.0);
    let most = |half: &[f64]| half.iter().copied().fold(0.0, f64::max);
    let (first, second) = memory.split_at(memory.len() / 2);
    let (first, second) = (most(first), most(second));
    println!(
        "{sent} queries, {failed} of them SERVFAIL; resident memory {:.1} MB, then {:.1} MB",
        first / 1e6,
        second / 1e6
    );
    assert!(second <= first + GROWTH, "memory grows from {first} to {second} bytes");
}

/// Sets the flag on drop, which ends the test even after a panic.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
