//! Floods through the server's query path: names that are queried once do not evict popular ones, and prefetches from a
//! silent upstream are bounded.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use nodens::answer::{LocalCounters, Resolver, Response, resolve};
use nodens::config::parse::parse;
use nodens::forward::refresh;
use nodens::governor::MOST_PENDING;
use nodens::jobs::StatsBuffer;
use nodens::metrics::Metrics;
use nodens::snapshot::Snapshot;
use nodens::upstream::{Answer, Ask, Group, Question, Transport, Unanswered};
use nodens::wire::name::Name;
use nodens::wire::rcode;
use tokio::task::LocalSet;
use tokio::time::Instant;

const CONFIG: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[cache]
memory = "2MiB"
[upstreams.up]
servers = ["192.0.2.1"]
[[route]]
zones = ["."]
to = "up"
"#;

/// Names that are queried in every round.
const POPULAR: usize = 250;
/// Names of each round that are queried once: more than the cache holds, which the test asserts. With eviction by last use
/// alone, every popular name would be evicted before its next query.
const FLOOD: usize = 9_000;
const ROUNDS: usize = 3;

/// An upstream that has an address for every name.
struct Knowing {
    asked: Cell<usize>,
    silent: Cell<bool>,
}

impl Ask for Knowing {
    async fn ask(&self, _: &Group, question: &Question, _: Option<IpAddr>, _: Instant) -> Result<Answer, Unanswered> {
        self.asked.set(self.asked.get() + 1);
        if self.silent.get() {
            return std::future::pending().await;
        }
        let mut wire = query(question.name.as_wire());
        wire[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        wire.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01");
        Ok(Answer { wire, server: "192.0.2.1:53".parse().unwrap(), transport: Transport::Udp })
    }
}

struct Scene {
    resolver: Arc<Resolver>,
    upstreams: Rc<Knowing>,
    tally: LocalCounters,
    stats_buffer: StatsBuffer,
}

impl Scene {
    /// Returns a scene whose cache is bounded by `memory`.
    fn new(memory: &str) -> Self {
        let config = CONFIG.replace("2MiB", memory);
        let metrics = Arc::new(Metrics::new().unwrap());
        let tally = LocalCounters::new(&metrics, &[".".to_string()]);
        let snapshot = Snapshot::new(parse(&config, &[]).unwrap(), &metrics, None);
        let resolver = Arc::new(Resolver::new(snapshot, metrics));
        Self {
            resolver,
            upstreams: Rc::new(Knowing { asked: Cell::new(0), silent: Cell::new(false) }),
            tally,
            stats_buffer: StatsBuffer::new(["."]),
        }
    }

    /// Queries a name as a client does; returns whether the response was immediate.
    async fn ask(&mut self, name: &str) -> bool {
        let packet = query(Name::from_str(name).unwrap().as_wire());
        let snapshot = self.resolver.snapshot.load_full();
        let mut context = self.resolver.context(&snapshot, Instant::now(), &mut self.tally, &mut self.stats_buffer);
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut out = [0; 1232];
        match self.resolver.respond(&mut context, &packet, client, false, &mut out) {
            Response::Reply(len) => {
                assert_eq!((out[3] & 0x0f, out[7]), (0, 1), "{name}: {:?}", &out[..len]);
                true
            }
            Response::Deferred(deferred) => {
                let resolved = resolve(&self.resolver, &self.upstreams, deferred).await;
                resolved.render(&self.resolver, &mut out);
                assert_eq!((resolved.rcode(), out[7]), (rcode::NOERROR, 1), "{name}");
                false
            }
            Response::ReplyAndRefresh(_, wanted) => {
                refresh(&self.resolver, &self.upstreams, *wanted);
                true
            }
            Response::Silence => panic!("{name}: neither an answer nor a question for upstreams"),
        }
    }
}

/// Returns a query for the A record of `name`, with RD set.
fn query(name: &[u8]) -> Vec<u8> {
    [b"\0\x07\x01\0\0\x01\0\0\0\0\0\0", name, b"\0\x01\0\x01"].concat()
}

#[tokio::test(start_paused = true)]
async fn unique_names_do_not_evict_popular_ones() {
    let mut scene = Scene::new("2MiB");
    let flooded = async {
        for round in 0..2 {
            for popular in 0..POPULAR {
                assert_eq!(scene.ask(&format!("p{popular}.popular.example")).await, round == 1);
            }
        }
        let mut hits = 0;
        for round in 0..ROUNDS {
            for at in 0..FLOOD {
                assert!(!scene.ask(&format!("u{at}.r{round}.flood.example")).await, "it was never asked for");
                if at % (FLOOD / POPULAR) == 0 {
                    hits += usize::from(scene.ask(&format!("p{}.popular.example", at / (FLOOD / POPULAR))).await);
                }
            }
        }
        let fill = scene.resolver.cache.fill();
        assert!(fill.entries < FLOOD, "the cache holds more than a round of the flood: {fill:?}");
        assert!(fill.evictions > 0 && scene.upstreams.asked.get() >= FLOOD * ROUNDS + POPULAR);
        assert!(hits * 100 >= POPULAR * ROUNDS * 95, "{hits} hits of {}: {fill:?}", POPULAR * ROUNDS);
        println!("{hits} hits of {}, {fill:?}", POPULAR * ROUNDS);
    };
    LocalSet::new().run_until(flooded).await;
}

#[tokio::test(start_paused = true)]
async fn prefetches_from_a_silent_upstream_are_bounded() {
    const NAMES: usize = 3_000;
    let mut scene = Scene::new("64MiB");
    let flooded = async {
        // All names become popular.
        for round in 0..4 {
            for name in 0..NAMES {
                assert_eq!(scene.ask(&format!("p{name}.popular.example")).await, round > 0);
            }
        }
        // In the last tenth of an entry's TTL, each hit requests a prefetch.
        tokio::time::advance(Duration::from_secs(3_300)).await;
        scene.upstreams.silent.set(true);
        scene.upstreams.asked.set(0);
        for name in 0..NAMES {
            assert!(scene.ask(&format!("p{name}.popular.example")).await);
        }
        // Lets all prefetch tasks start.
        for _ in 0..NAMES {
            tokio::task::yield_now().await;
        }
        let (most, pending) = (MOST_PENDING / 8, &scene.resolver.limits.governor.pending);
        assert_eq!((pending.prefetches(), scene.upstreams.asked.get(), pending.count()), (most, most, 0));
        let turned_away = scene.resolver.metrics.capacity.rejections.with_label_values(&["prefetches"]).get();
        assert_eq!(turned_away, (NAMES - most) as u64);
    };
    LocalSet::new().run_until(flooded).await;
    assert_eq!(scene.resolver.limits.governor.pending.prefetches(), 0, "their tasks are gone");
}
