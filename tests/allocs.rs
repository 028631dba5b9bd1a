//! Allocations: none for a hit, and never more than the cache's bound, however many names are queried.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use nodens::answer::{LocalCounters, Resolver, Response};
use nodens::cache::entry::{CacheScope, Entry, EntryLimits};
use nodens::cache::{Cache, Millis};
use nodens::clients::client::{Client, ClientKind};
use nodens::clients::pods::{Pod, PodEvent, Pods};
use nodens::clients::{ClientIdentity, Unknown};
use nodens::config::RouteId;
use nodens::config::parse::parse;
use nodens::effective_view::EffectiveViewId;
use nodens::jobs::StatsBuffer;
use nodens::metrics::Metrics;
use nodens::query_log::sampler::BUFFER;
use nodens::snapshot::Snapshot;
use nodens::wire::cache_key::CacheKey;
use nodens::wire::fit::{Age, fit};
use nodens::wire::query::Query;
use nodens::wire::response::ResponseMessage;
use nodens::wire::write::extended_error;
use tokio::time::Instant;

thread_local! {
    /// Number of this thread's allocations, and bytes that it has allocated and not freed.
    static COUNT: Cell<(usize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator with a counter per thread: tests that run in parallel do not disturb each other.
struct Counting;

fn count(allocations: usize, bytes: isize) {
    // The counter of a thread that is ending is gone, and is not read any more.
    let _ = COUNT.try_with(|count| count.set((count.get().0 + allocations, count.get().1 + bytes)));
}

// SAFETY: every call is passed unchanged to the system's allocator; counting touches no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller upholds the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> usize {
    COUNT.with(|count| count.get().0)
}

fn bytes() -> isize {
    COUNT.with(|count| count.get().1)
}

const LIMITS: EntryLimits = EntryLimits { max_ttl: 1000, negative_max_ttl: 1000, rotate: true };
const ROUTE: RouteId = match RouteId::of_index(0) {
    Some(route) => route,
    None => panic!("it is an index"),
};
const HOME: CacheScope = CacheScope::new(0, ROUTE, 0);

/// Returns a query for `name` (one label below `test.example`), with EDNS and DO.
fn query(name: &str) -> Vec<u8> {
    let mut packet = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
    packet.push(name.len() as u8);
    packet.extend(name.as_bytes());
    packet.extend(b"\x04test\x07example\x00\0\x01\0\x01");
    packet.extend(b"\x00\0\x29\x04\xd0\0\0\x80\0\0\0");
    packet
}

/// Returns the response to `query`: `addresses` A records and an extended error.
fn response(query: &[u8], addresses: u16) -> Vec<u8> {
    let mut packet = query[..query.len() - 11].to_vec();
    packet[2..4].copy_from_slice(&[0x81, 0x80]);
    packet[6..8].copy_from_slice(&addresses.to_be_bytes());
    for _ in 0..addresses {
        packet.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x01\x00\0\x04\x01\x02\x03\x04");
    }
    packet.extend(b"\x00\0\x29\x04\xd0\0\0\x80\0\0\x06\0\x0f\0\x02\0\x16");
    packet
}

fn keep(cache: &Cache, query: &[u8], response: &[u8], now: Millis) {
    let key = CacheKey::new(&Query::read(query).unwrap(), EffectiveViewId::COMMON);
    let entry = Entry::from_reply(&ResponseMessage::read(response).unwrap(), LIMITS, false, HOME, now);
    cache.insert(cache.hash(&key), &key, entry);
}

#[test]
fn look_up_and_fit_allocate_nothing() {
    let cache = Cache::new(1 << 20);
    let packet = query("WwW");
    keep(&cache, &packet, &response(&packet, 3), 0);
    let options = [0, 15, 0, 2, 0, 3];
    for (options, size) in [(&[][..], 1232), (&options[..], 1232), (&[], 80)] {
        let mut out = [0; 1232];
        let before = allocations();
        let query = Query::read(black_box(&packet)).unwrap();
        let key = CacheKey::new(&query, EffectiveViewId::COMMON);
        let hash = cache.hash(&key);
        let len = cache.with(hash, &key, |entry| {
            entry.hits = entry.hits.saturating_add(1);
            fit(entry.cached_message(), &query, Age::Seconds(5), options, &mut out[..size])
        });
        assert_eq!(allocations(), before, "with {} bytes of options", options.len());
        assert!(len.is_some_and(|len| len > 40));
    }
}

const CONFIG: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[upstreams.public]
servers = ["192.0.2.1"]
[[route]]
zones = [".", "cluster.local"]
to = "public"
"#;

/// Query for `www.example.` A in mixed letter case, with RD set.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03wWw\x07exaMPLe\x00\x00\x01\x00\x01";
/// OPT record that offers 1232 bytes, with DO not set.
const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
/// Record of the answer: 192.0.2.7 with a TTL of 300 s.
const RECORD: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x07";

struct Scene {
    resolver: Arc<Resolver>,
    snapshot: Arc<Snapshot>,
    tally: LocalCounters,
    stats_buffer: StatsBuffer,
    out: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    fn with(more: &str) -> Self {
        let config = parse(&format!("{CONFIG}{more}"), &[]).expect("a good configuration");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let tally = LocalCounters::new(&metrics, &[".".to_string()]);
        let resolver = Arc::new(Resolver::new(Snapshot::new(config, &metrics, None), metrics));
        let snapshot = resolver.snapshot.load_full();
        Self { resolver, snapshot, tally, stats_buffer: StatsBuffer::new(["."]), out: vec![0; 4096] }
    }

    fn keep_the_answer(&self) {
        self.keep_an_answer(&[]);
    }

    /// Caches the answer with these extended errors, as whole options.
    fn keep_an_answer(&self, extended_errors: &[u8]) {
        let mut wire = [QUERY, RECORD].concat();
        wire[2..4].copy_from_slice(&[0x81, 0x80]);
        wire[7] = 1;
        let mut response = ResponseMessage::read(&wire).expect("a good reply");
        response.extended_errors = extended_errors.to_vec();
        let scope = self.snapshot.scope(EffectiveViewId::COMMON, ROUTE, false);
        let entry = Entry::from_reply(&response, LIMITS, false, scope, self.resolver.now());
        let key = CacheKey::new(&Query::read(QUERY).expect("a good query"), EffectiveViewId::COMMON);
        self.resolver.cache.insert(self.resolver.cache.hash(&key), &key, entry);
    }

    /// Caches NXDOMAIN for `query`.
    fn keep_a_denial(&self, query: &[u8]) {
        let mut wire = query.to_vec();
        wire[2..4].copy_from_slice(&[0x81, 0x83]);
        wire[9] = 1;
        // SOA record of the root with a TTL of 300 s.
        wire.extend(b"\x00\x00\x06\x00\x01\x00\x00\x01\x2c\x00\x16\x00\x00");
        wire.extend([[0; 4], [0; 4], [0; 4], [0; 4], [0, 0, 1, 0x2c]].concat());
        let response = ResponseMessage::read(&wire).expect("a good reply");
        let entry = Entry::from_reply(
            &response,
            LIMITS,
            false,
            self.snapshot.scope(EffectiveViewId::COMMON, ROUTE, false),
            self.resolver.now(),
        );
        let key = CacheKey::new(&Query::read(query).expect("a good query"), EffectiveViewId::COMMON);
        self.resolver.cache.insert(self.resolver.cache.hash(&key), &key, entry);
    }

    /// Sends a query; returns the length of the response if it is immediate.
    fn ask(&mut self, query: &[u8], over_tcp: bool) -> Option<usize> {
        let mut context =
            self.resolver.context(&self.snapshot, Instant::now(), &mut self.tally, &mut self.stats_buffer);
        let client: IpAddr = [127, 0, 0, 1].into();
        match self.resolver.respond(&mut context, query, client, over_tcp, &mut self.out) {
            Response::Reply(len) | Response::ReplyAndRefresh(len, _) => Some(len),
            _ => None,
        }
    }
}

#[test]
fn a_hit_through_the_whole_path_allocates_nothing() {
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
        // The first query of each kind looks up its counter.
        assert_eq!(scene.ask(query, over_tcp), Some(length));
        scene.tally.flush(&scene.resolver.metrics, 0.000_1);
        let before = allocations();
        for _ in 0..1_000 {
            assert_eq!(scene.ask(query, over_tcp), Some(length));
        }
        scene.tally.flush(&scene.resolver.metrics, 0.000_1);
        let after = allocations();
        assert_eq!(after - before, 0, "over TCP: {over_tcp}, query of {} bytes", query.len());
    }
    assert!(scene.out.starts_with(&QUERY[..2]), "the id is the query's");
}

/// Each value of `hints` shows another part of the extended error.
#[test]
fn a_hit_with_an_extended_error_allocates_nothing() {
    let mut query = [QUERY, OPT].concat();
    query[11] = 1;
    let text = "forged by 192.0.2.9:53";
    for (hints, shown) in [("full", text.len()), ("own", "forged by".len()), ("off", 0)] {
        let mut scene = Scene::with(&format!("[[view]]\nname='a'\nsources=['127.0.0.1']\nhints='{hints}'\n"));
        scene.keep_an_answer(&extended_error(4, text));
        let length = Some(query.len() + RECORD.len() + 6 + shown);
        assert_eq!(scene.ask(&query, false), length, "{hints}");
        scene.tally.flush(&scene.resolver.metrics, 0.000_1);
        let before = allocations();
        (0..1_000).for_each(|_| assert_eq!(scene.ask(&query, false), length));
        assert_eq!(allocations() - before, 0, "{hints}");
    }
}

#[test]
fn a_hit_that_is_logged_allocates_nothing() {
    let file = format!("{}/allocs-{}.jsonl", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let mut scene = Scene::with(&format!("[query_log]\nto = {file:?}\nmax_per_second = 100000\n"));
    scene.keep_the_answer();
    scene.resolver.follow_query_log(&scene.snapshot.config);
    scene.stats_buffer.log = scene.resolver.accounts.query_log.sampler(&scene.snapshot);
    // One query fewer than the buffer holds: a full buffer is handed over.
    let before = allocations();
    for _ in 0..BUFFER - 1 {
        assert!(scene.ask(QUERY, false).is_some());
    }
    assert_eq!(allocations() - before, 0);
    scene.stats_buffer = StatsBuffer::new(["."]);
    scene.resolver.accounts.query_log.close();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(text.lines().count(), BUFFER - 1);
}

#[test]
fn knowing_who_asks_allocates_nothing() {
    let scene = Scene::new();
    let clients = &scene.resolver.clients;
    let pod = |uid: u8, address: [u8; 4]| {
        let client = Client {
            kind: ClientKind::Pod,
            name: "a".into(),
            namespace: None,
            uid: Some(uid.to_string().into()),
            labels: Box::default(),
            more_labels: false,
            job: None,
            memo: Default::default(),
            search: None,
        };
        PodEvent::Seen(Pod {
            uid: uid.to_string().into(),
            version: 1,
            addresses: vec![address.into()],
            host_network: false,
            ended: false,
            deleting: false,
            client: Arc::new(client),
        })
    };
    let mut pods = Pods::new(1, false);
    pods.apply(0, pod(1, [10, 0, 0, 1]), 0);
    pods.apply(0, pod(2, [10, 0, 0, 2]), 0);
    pods.apply(0, pod(3, [10, 0, 0, 2]), 0);
    clients.put_pods(pods.table());
    let fixed = &scene.snapshot.clients;
    // The first lookup of a thread registers it as a reader.
    drop(clients.tables(fixed));
    let before = allocations();
    for _ in 0..1_000 {
        let tables = clients.tables(fixed);
        assert!(matches!(tables.identify([10, 0, 0, 1].into(), 5), ClientIdentity::Known { since: Some(0), .. }));
        assert!(matches!(tables.identify([10, 0, 0, 2].into(), 5), ClientIdentity::Unknown(Unknown::Shared)));
        assert!(matches!(tables.identify([10, 0, 0, 3].into(), 5), ClientIdentity::Unknown(Unknown::Unassigned)));
    }
    assert_eq!(allocations() - before, 0);
}

#[test]
fn nxdomain_is_counted_without_allocation() {
    let mut scene = Scene::new();
    scene.keep_a_denial(QUERY);
    assert!(scene.ask(QUERY, false).is_some());
    scene.tally.flush(&scene.resolver.metrics, 0.000_1);
    let before = allocations();
    (0..1_000).for_each(|_| assert!(scene.ask(QUERY, false).is_some()));
    assert_eq!(allocations() - before, 0);
    let noted: Vec<_> =
        scene.stats_buffer.failures().map(|failure| (failure.question().0, failure.times.times)).collect();
    assert_eq!(noted, [(&b"\x03www\x07example\x00"[..], 1_001)]);
}

#[test]
fn pruned_names_are_denied_without_allocation() {
    let mut scene = Scene::new();
    let question = |name: &[u8]| [&QUERY[..12], name, b"\x07cluster\x05local\x00\x00\x01\x00\x01"].concat();
    let cluster = scene.snapshot.cluster(ROUTE).expect("the zone is claimed");
    cluster.probes.judge(true, scene.resolver.now());
    scene.keep_a_denial(&question(b"\x03com\x03svc"));
    for name in [&b"\x08registry\x07example\x03com"[..], b"\x08registry\x07example\x03com\x03svc"] {
        let plain = question(name);
        let mut with_opt = [&plain[..], OPT].concat();
        with_opt[11] = 1;
        for query in [plain, with_opt] {
            let length = scene.ask(&query, false);
            assert!(length.is_some_and(|length| length > query.len() + 60), "with an SOA record");
            assert_eq!(scene.out[3] & 0xf, 3, "no such name");
            scene.tally.flush(&scene.resolver.metrics, 0.000_1);
            let before = allocations();
            (0..1_000).for_each(|_| assert_eq!(scene.ask(&query, false), length));
            // One allocation for each query that is forwarded all the same: one in a hundred of those denied by their form.
            assert!(allocations() - before <= 10, "{}", allocations() - before);
        }
    }
}

#[test]
fn the_bound_is_hard() {
    const MEMORY: usize = 4 << 20;
    let before = bytes();
    let cache = Cache::new(MEMORY);
    let mut most = 0;
    let mut flood = |what: &str, names: std::ops::Range<usize>, addresses: &dyn Fn(usize) -> u16| {
        for number in names {
            let packet = query(&format!("n{number:x}"));
            keep(&cache, &packet, &response(&packet, addresses(number)), 0);
            // After a second lookup the entry may use the whole cache, not only the part for new names.
            let key = CacheKey::new(&Query::read(&packet).unwrap(), EffectiveViewId::COMMON);
            cache.with(cache.hash(&key), &key, |_| ());
            most = most.max(bytes() - before);
        }
        let fill = cache.fill();
        let real = bytes() - before;
        assert!(real <= MEMORY as isize, "{what}: {real} bytes with {fill:?}");
        assert!(fill.bytes <= MEMORY && fill.bytes as isize >= real, "{what}: {real} bytes with {fill:?}");
        assert!(fill.bytes > MEMORY / 100 * 85, "{what}: room left unused: {fill:?}");
    };
    flood("small replies", 0..15_000, &|_| 1);
    flood("replies of all sizes", 15_000..25_000, &|number| (number % 100) as u16 + 1);
    flood("small replies again", 25_000..40_000, &|_| 1);
    flood("large replies", 40_000..41_000, &|_| 250);
    flood("small replies for long", 0..40_000, &|_| 1);
    // While a response is being inserted, it and its table of records exist twice.
    assert!(most <= MEMORY as isize + (64 << 10), "{most} bytes at most");

    let held = cache.fill();
    drop(cache);
    assert_eq!(bytes(), before, "freed with the cache: {held:?}");
}

#[test]
fn a_view_costs_what_it_adds_whatever_it_inherits() {
    let records: String = (0..20_000)
        .map(|n| format!("[[record]]\nname = \"n{n}.corp.example\"\ntype = \"A\"\nvalue = \"10.0.0.9\"\n"))
        .collect();
    let metrics = Metrics::new().unwrap();
    let taken = |count: usize| {
        let view = |n| format!("[[view]]\nname = \"v{n}\"\nnamespaces = [\"n{n}\"]\ndeny = [\"d{n}.example\"]\n");
        let views: String = (0..count).map(view).collect();
        let before = bytes();
        let config = parse(&format!("{CONFIG}{records}{views}"), &[]).unwrap();
        let snapshot = Snapshot::new(config, &metrics, None);
        assert_eq!(snapshot.effective_views().len(), 1 + count);
        bytes() - before
    };
    let (one, all) = (taken(1), taken(32));
    assert!(all * 10 < one * 12, "one view {one} bytes, 32 views {all}");
}
