//! Client statistics, from the worker that records them to their readers: bounded work, no waiting, nothing lost.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nodens::answer::{LocalCounters, Resolved, Resolver, Response, resolve};
use nodens::cause::Cause;
use nodens::clients::{Clients, StaticClients};
use nodens::config::RouteId;
use nodens::config::parse::parse;
use nodens::jobs::projects::Projects;
use nodens::jobs::stats_buffer::{RecordedFailure, Wait};
use nodens::jobs::{Jobs, Pick, StatsBuffer};
use nodens::metrics::{AnswerSource, Metrics};
use nodens::snapshot::Snapshot;
use nodens::upstream::{Answer, Ask, Group, Question, Unanswered};
use nodens::wire::name::Name;
use nodens::wire::{Rcode, rcode, rtype};
use tokio::task::LocalSet;
use tokio::time::Instant;

/// The only route.
const ROUTE: Option<RouteId> = RouteId::of_index(0);
/// Configured client in 10.0.0.0/8, with a namespace.
const KNOWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
/// Address of no configured client.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Failures recorded before each settlement.
const NOTES: u64 = 200;
/// Settlements for each kind of name; after the first few, all lists of an account are full.
const ROUNDS: u64 = 20;
/// Most items that settling one record may look at: an account has two lists of 64, and a name 12 suffixes.
const MOST_STEPS: u64 = 400;

/// Returns a configuration with `zones` zones besides the root.
fn config(zones: usize) -> nodens::config::Config {
    let zones: Vec<String> = (0..zones).map(|number| format!("\"z{number}.corp.example\"")).collect();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"10.0.0.0/8\"]\n[upstreams.up]\nservers = [\"192.0.2.1\"]\n\
         [[route]]\nzones = [\".\", {}]\nto = \"up\"\n\
         [[client]]\nsource = \"10.0.0.1\"\nname = \"one\"\nnamespace = \"ci\"\n\
         [[client]]\nsource = \"10.0.0.2\"\nname = \"two\"\nnamespace = \"ci\"\n",
        zones.join(", ")
    );
    parse(&text, &[]).unwrap()
}

fn stats_buffer(snapshot: &Snapshot) -> StatsBuffer {
    let mut stats_buffer = StatsBuffer::new(["."]);
    stats_buffer.follow(&snapshot.labels, &snapshot.clients);
    stats_buffer
}

struct Accounts {
    jobs: Jobs,
    /// Contains no pods.
    clients: Clients,
    snapshot: Snapshot,
}

impl Accounts {
    fn new() -> Self {
        let config = config(1);
        let metrics = Metrics::new().unwrap();
        let jobs = Jobs::new(Projects::new(&metrics.clients, 10));
        let snapshot = Snapshot::new(config, &metrics, None);
        jobs.follow(&snapshot);
        Self { jobs, clients: Clients::default(), snapshot }
    }

    /// Returns the buffer of a worker that follows the configuration.
    fn stats_buffer(&self) -> StatsBuffer {
        stats_buffer(&self.snapshot)
    }

    fn merge_counts(&self, now: u64) {
        self.jobs.merge_counts(&self.clients, &self.snapshot.clients, now);
    }

    fn queries(&self, id: &str) -> u64 {
        self.jobs.find(id).map_or(0, |found| found.account.count(|_| true))
    }

    /// Records a failure and a wait for each name and settles them; returns the steps for each name.
    fn steps(&self, client: IpAddr, rcode: Rcode, name: impl Fn(u64) -> String) -> f64 {
        let before = self.jobs.steps();
        let mut noted = 0;
        for round in 0..ROUNDS {
            let mut stats_buffer = self.stats_buffer();
            for number in round * NOTES..(round + 1) * NOTES {
                let name: Name = name(number).parse().unwrap();
                let (name, source, cause) = (name.as_wire(), AnswerSource::Local, Cause::of_rcode(rcode).unwrap());
                let failed = RecordedFailure { name, hash: number, qtype: rtype::A, route: None, rcode, source, cause };
                stats_buffer.fail(client, failed, number, || None);
                let took = Duration::from_millis(number % 100);
                let wait = Wait {
                    address: 0,
                    asked: number,
                    took,
                    name: name.into(),
                    qtype: rtype::A,
                    route: ROUTE,
                    rcode: rcode::NOERROR,
                };
                stats_buffer.wait(client, wait);
                noted += 1;
            }
            assert!(self.jobs.flush(&mut stats_buffer, 1_000));
            self.merge_counts(1_000);
        }
        (self.jobs.steps() - before) as f64 / f64::from(noted as u32)
    }
}

/// Kind of names: its label, and a function from a number to a name.
type Form<'a> = (&'static str, Box<dyn Fn(u64) -> String + 'a>);

#[test]
fn a_note_costs_the_same_whatever_was_asked() {
    let long = vec!["a"; 115].join(".");
    let forms: [Form<'_>; 7] = [
        ("short names", Box::new(|n| format!("n{n}.test"))),
        ("119 labels", Box::new(|n| format!("n{n}.{long}.b.test"))),
        ("the same again and again", Box::new(|n| format!("n{}.{long}.b.test", n % 64))),
        ("of a search list, each another", Box::new(|n| format!("n{n}.b.ci.svc.cluster.local"))),
        ("of a search list, 119 labels", Box::new(|n| format!("n{n}.{}.ci.svc.cluster.local", &long[8..]))),
        ("services", Box::new(|n| format!("n{n}.ci.svc.cluster.local"))),
        (
            "services, and what is behind",
            Box::new(|n| match n % 4 {
                0 => format!("n{}.ci.svc.cluster.local", n / 4),
                1 => format!("n{}.svc.cluster.local", n / 4),
                2 => format!("n{}.cluster.local", n / 4),
                _ => format!("n{}.{}.cluster.local", n / 4, &long[8..]),
            }),
        ),
    ];
    for client in [KNOWN, STRANGER] {
        for rcode in [rcode::NXDOMAIN, rcode::SERVFAIL] {
            let accounts = Accounts::new();
            // Earlier kinds of names have filled the lists for later ones.
            for (what, name) in &forms {
                let steps = accounts.steps(client, rcode, name);
                println!("{client} {rcode} {what}: {steps:.0} steps a note");
                assert!(steps <= MOST_STEPS as f64, "{client} {rcode} {what}: {steps}");
            }
        }
    }
}

#[test]
fn a_worker_waits_for_nobody_who_reads_or_settles() {
    let accounts = Accounts::new();
    let mut stats_buffer = accounts.stats_buffer();
    let jobs = &accounts.jobs;
    stats_buffer.count(KNOWN, ROUTE, rcode::NOERROR, AnswerSource::Hit, 1);
    assert!(jobs.flush(&mut stats_buffer, 1));
    accounts.merge_counts(1);
    let tables = accounts.clients.tables(&accounts.snapshot.clients);
    let nodens::clients::ClientIdentity::Known { client, .. } = tables.identify(KNOWN, 1) else {
        panic!("it is configured")
    };
    assert!(jobs.try_look(client, Pick::All).is_some_and(|told| told.is_some()));
    let seen = jobs.each(|_| {
        // The reader holds the accounts here.
        stats_buffer.count(KNOWN, ROUTE, rcode::NOERROR, AnswerSource::Hit, 2);
        jobs.truncated.cut(KNOWN, b"\x03big\x00", rtype::A, None, 512, 2);
        jobs.truncated.asked_over_tcp(KNOWN, b"\x03big\x00", rtype::A);
        (jobs.flush(&mut stats_buffer, 200), jobs.try_look(client, Pick::All).is_none())
    });
    assert_eq!(seen, [(true, true)]);
    accounts.merge_counts(200);
    assert_eq!((accounts.queries("one"), jobs.dropped()), (2, 0));
}

#[test]
fn no_count_is_lost_between_workers_and_control() {
    const WORKERS: u64 = 3;
    const BATCHES: u64 = 400;
    const QUERIES: u64 = 50;
    let accounts = Accounts::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut stats_buffer = accounts.stats_buffer();
                    for batch in 1..=BATCHES {
                        (0..QUERIES)
                            .for_each(|_| stats_buffer.count(KNOWN, ROUTE, rcode::NOERROR, AnswerSource::Hit, batch));
                        if batch % 50 == 0 {
                            stats_buffer.follow(&[Arc::from("after a reload")].into(), &accounts.snapshot.clients);
                        }
                        // After a reload and at the end, the worker retries until there is room.
                        while !accounts.jobs.flush(&mut stats_buffer, batch) && batch % 50 == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                accounts.merge_counts(1);
                std::thread::yield_now();
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Release);
    });
    accounts.merge_counts(1);
    let (handed_over, settled) = accounts.jobs.progress();
    assert_eq!((accounts.queries("one"), accounts.jobs.dropped()), (WORKERS * BATCHES * QUERIES, 0));
    assert!(handed_over == settled && handed_over >= WORKERS);
}

#[test]
fn counts_belong_to_the_address_owner_at_that_time() {
    let accounts = Accounts::new();
    let mut renamed = config(1);
    renamed.clients.iter_mut().for_each(|client| client.name = format!("{} again", client.name));
    let (renamed, labels) = (Arc::new(StaticClients::new(&renamed.clients)), Arc::clone(&accounts.snapshot.labels));
    let mut stats_buffer = accounts.stats_buffer();
    stats_buffer.count(KNOWN, ROUTE, rcode::NOERROR, AnswerSource::Hit, 1);
    assert!(accounts.jobs.flush(&mut stats_buffer, 1), "one buffer is on its way at the reload");
    stats_buffer.count(KNOWN, ROUTE, rcode::NOERROR, AnswerSource::Hit, 2);
    // The second count is still in the worker's buffer.
    stats_buffer.follow(&labels, &renamed);
    stats_buffer.count(KNOWN, ROUTE, rcode::NOERROR, AnswerSource::Hit, 3);
    assert!(accounts.jobs.flush(&mut stats_buffer, 3));
    // The buffer received in exchange belongs to the same configuration.
    stats_buffer.count(KNOWN, ROUTE, rcode::NOERROR, AnswerSource::Hit, 4);
    assert!(accounts.jobs.flush(&mut stats_buffer, 4));
    accounts.jobs.merge_counts(&accounts.clients, &renamed, 5);
    assert_eq!(["one", "one again", "unknown"].map(|id| accounts.queries(id)), [2, 2, 0]);
}

/// Upstreams that must not be queried.
struct Nobody;

impl Ask for Nobody {
    async fn ask(&self, _: &Group, _: &Question, _: Option<IpAddr>, _: Instant) -> Result<Answer, Unanswered> {
        panic!("an upstream was asked")
    }
}

struct Scene {
    resolver: Arc<Resolver>,
    tally: LocalCounters,
    stats_buffer: StatsBuffer,
}

impl Scene {
    fn new(zones: usize) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let tally = LocalCounters::new(&metrics, &[".".to_string()]);
        let resolver = Arc::new(Resolver::new(Snapshot::new(config(zones), &metrics, None), metrics));
        resolver.accounts.jobs.follow(&resolver.snapshot.load());
        let stats_buffer = stats_buffer(&resolver.snapshot.load());
        Self { resolver, tally, stats_buffer }
    }

    fn respond(&mut self, client: IpAddr, packet: &[u8], at: Instant) -> (Response, Vec<u8>) {
        let snapshot = self.resolver.snapshot.load_full();
        let mut context = self.resolver.context(&snapshot, at, &mut self.tally, &mut self.stats_buffer);
        let mut out = vec![0; 1_232];
        let response = self.resolver.respond(&mut context, packet, client, false, &mut out);
        (response, out)
    }
}

fn query(name: &str, qtype: u8) -> Vec<u8> {
    let name: Name = name.parse().unwrap();
    let opt: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
    [b"\0\x07\x01\0\0\x01\0\0\0\0\0\x01", name.as_wire(), &[0, qtype, 0, 1], opt].concat()
}

fn text(wire: &[u8]) -> String {
    String::from_utf8_lossy(wire).into_owned()
}

const TXT: u8 = 16;

/// Returns the response as text.
fn rendered(resolver: &Resolver, resolved: &Resolved) -> String {
    let mut out = vec![0; 4_096];
    let length = resolved.render(resolver, &mut out);
    text(&out[..length])
}

#[tokio::test(start_paused = true)]
async fn a_client_sees_its_own_earlier_queries() {
    let mut scene = Scene::new(5_000);
    let packet = query("me.nodens.internal", TXT);
    for number in 0..100 {
        let name = format!("n{number}.{}.test", vec!["a"; 116].join("."));
        let (response, _) = scene.respond(KNOWN, &query(&name, 1), Instant::now());
        assert!(matches!(response, Response::Reply(_)), "nodens denies it itself");
    }
    let (Response::Deferred(deferred), _) = scene.respond(KNOWN, &packet, Instant::now()) else {
        panic!("it takes a task")
    };
    let resolver = Arc::clone(&scene.resolver);
    let merge_counts = async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        resolver.accounts.jobs.merge_counts(&resolver.clients, &resolver.snapshot.load().clients, resolver.now());
    };
    let nobody = Rc::new(Nobody);
    let finish = resolve(&scene.resolver, &nobody, deferred);
    let (finished, ()) = LocalSet::new().run_until(async { tokio::join!(finish, merge_counts) }).await;
    let said = rendered(&scene.resolver, &finished);
    assert_eq!((finished.rcode(), finished.source), (rcode::NOERROR, AnswerSource::Local));
    assert!(said.contains("10.0.0.1 is configured one in namespace ci"), "{said}");
    assert!(said.contains("100 queries, 100 failed") && said.contains("failed 1x"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn an_introspection_query_waits_a_bounded_time() {
    let mut scene = Scene::new(1);
    let packet = query("a.test.why.nodens.internal", TXT);
    scene.respond(KNOWN, &query("a.test", 1), Instant::now());
    let (Response::Deferred(deferred), _) = scene.respond(KNOWN, &packet, Instant::now()) else {
        panic!("it takes a task")
    };
    let began = Instant::now();
    let nobody = Rc::new(Nobody);
    let finish = resolve(&scene.resolver, &nobody, deferred);
    let finished = LocalSet::new().run_until(finish).await;
    assert!(
        rendered(&scene.resolver, &finished).contains("a.test is a special-use name"),
        "{}",
        rendered(&scene.resolver, &finished)
    );
    assert!(began.elapsed() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn each_client_is_told_of_itself_only_so_often() {
    let mut scene = Scene::new(1);
    let packets = [query("me.nodens.internal", TXT), query("git.example.why.nodens.internal", TXT)];
    let at = Instant::now();
    let later = |scene: &mut Scene, client, at, many: usize| {
        let mut later = 0;
        for packet in packets.iter().cycle().take(many) {
            match scene.respond(client, packet, at) {
                (Response::Deferred(_), _) => later += 1,
                (Response::Reply(length), out) => {
                    let said = text(&out[..length]);
                    assert!(said.contains("rate limited: at most 10 such answers a second"), "{said}");
                }
                _ => panic!("neither"),
            }
        }
        later
    };
    assert_eq!(later(&mut scene, KNOWN, at, 500), 10);
    assert_eq!(later(&mut scene, OTHER, at, 5), 5, "nobody else is");
    assert_eq!(later(&mut scene, KNOWN, at + Duration::from_millis(500), 100), 5);
}
