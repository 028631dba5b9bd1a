//! A hit allocates nothing: held by an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use nodens::answer::{Resolver, Response, Turn};
use nodens::cache::Entry;
use nodens::cache::entry::Limits;
use nodens::config::parse::parse;
use nodens::metrics::{Metrics, Tally};
use nodens::snapshot::Snapshot;
use nodens::wire::query::{Key, Query};
use nodens::wire::reply::Reply;

/// Counts the allocations of each thread by itself: the test runner has threads of its own.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator as it is.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONFIG: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[upstreams.public]
servers = ["192.0.2.1"]
[[route]]
zones = ["."]
to = "public"
"#;

/// `www.example.` A, recursion desired, in mixed letter case.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03wWw\x07exaMPLe\x00\x00\x01\x00\x01";
/// OPT of 1232 bytes, DO not set.
const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
/// Its answer's record: 192.0.2.7 for 300 s.
const RECORD: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x07";

struct Scene {
    resolver: Resolver,
    snapshot: Arc<Snapshot>,
    tally: Tally,
    out: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let config = parse(CONFIG, &[]).expect("a good configuration");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let tally = Tally::new(&metrics, &[".".to_string()]);
        let resolver = Resolver::new(Snapshot::new(config, &metrics, None), metrics);
        let snapshot = resolver.snapshot.load_full();
        Self { resolver, snapshot, tally, out: vec![0; 4096] }
    }

    fn keep_the_answer(&self) {
        let mut wire = [QUERY, RECORD].concat();
        wire[2..4].copy_from_slice(&[0x81, 0x80]);
        wire[7] = 1;
        let reply = Reply::read(&wire).expect("a good reply");
        let limits = Limits { max_ttl: 3600, negative_max_ttl: 30 };
        let home = self.snapshot.home(0, false);
        let entry = Entry::from_reply(&reply, limits, false, home, self.resolver.now());
        let key = Key::new(&Query::read(QUERY).expect("a good query"), 0);
        self.resolver.cache.insert(self.resolver.cache.hash(&key), &key, entry);
    }

    /// The length of the reply, if one is given at once.
    fn ask(&mut self, query: &[u8], over_tcp: bool) -> Option<usize> {
        let mut turn = Turn { snapshot: &self.snapshot, now: self.resolver.now(), tally: &mut self.tally };
        let client: IpAddr = [127, 0, 0, 1].into();
        match self.resolver.respond(&mut turn, query, client, over_tcp, &mut self.out) {
            Response::Reply(len) => Some(len),
            _ => None,
        }
    }
}

#[test]
fn a_hit_allocates_nothing() {
    let with_opt = {
        let mut query = [QUERY, OPT].concat();
        query[11] = 1;
        query
    };
    let mut scene = Scene::new();
    assert_eq!(scene.ask(QUERY, false), None, "nothing is known yet");
    scene.keep_the_answer();

    for (query, over_tcp, length) in [
        (QUERY, false, QUERY.len() + RECORD.len()),
        (&with_opt, false, QUERY.len() + RECORD.len() + OPT.len()),
        (QUERY, true, QUERY.len() + RECORD.len()),
        (&with_opt, true, QUERY.len() + RECORD.len() + OPT.len()),
    ] {
        // The first of each kind looks up its counter.
        assert_eq!(scene.ask(query, over_tcp), Some(length));
        scene.tally.flush(&scene.resolver.metrics, 0.000_1);
        let before = ALLOCATIONS.with(Cell::get);
        for _ in 0..1_000 {
            assert_eq!(scene.ask(query, over_tcp), Some(length));
        }
        scene.tally.flush(&scene.resolver.metrics, 0.000_1);
        let after = ALLOCATIONS.with(Cell::get);
        assert_eq!(after - before, 0, "over TCP: {over_tcp}, query of {} bytes", query.len());
    }
    assert!(scene.out.starts_with(&QUERY[..2]), "the id is the query's");
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.with(Cell::get);
    drop(std::hint::black_box(vec![1, 2, 3]));
    assert!(ALLOCATIONS.with(Cell::get) > before);
}
