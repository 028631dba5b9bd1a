//! A resolver without sockets, and an upstream that answers at once.
//!
//! Each benchmark uses a part of this module.
#![allow(dead_code)]

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use nodens::answer::{BatchContext, Deferred, LocalCounters, Resolved, Resolver, Response, resolve};
use nodens::cache::Cache;
use nodens::cache::entry::{CacheScope, Entry, EntryLimits};
use nodens::config::RouteId;
use nodens::config::parse::parse;
use nodens::effective_view::EffectiveViewId;
use nodens::jobs::StatsBuffer;
use nodens::metrics::{AnswerSource, Metrics};
use nodens::snapshot::Snapshot;
use nodens::upstream::{Answer, Ask, Group, Question, Transport, Unanswered};
use nodens::wire::cache_key::CacheKey;
use nodens::wire::query::Query;
use nodens::wire::rcode;
use nodens::wire::response::ResponseMessage;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::Instant;

pub(crate) mod packets;

/// Most datagrams that a socket returns at once.
pub(crate) const BATCH: usize = 64;

const CONFIG: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[upstreams.private]
servers = ["192.0.2.1"]
[upstreams.public]
servers = ["192.0.2.2"]
[[route]]
zones = ["cluster.local", "corp.example"]
to = "private"
[[route]]
zones = ["."]
to = "public"
"#;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const LIMITS: EntryLimits = EntryLimits { max_ttl: 86_400, negative_max_ttl: 3_600, rotate: true };

/// A worker without its sockets.
pub(crate) struct Scene {
    resolver: Arc<Resolver>,
    snapshot: Arc<Snapshot>,
    tally: LocalCounters,
    stats_buffer: StatsBuffer,
    upstreams: Rc<AtOnce>,
    out: Vec<u8>,
    runtime: Rc<Runtime>,
    tasks: Rc<LocalSet>,
}

impl Scene {
    /// Returns a scene with an empty cache.
    pub(crate) fn new() -> Self {
        let config = parse(CONFIG, &[]).expect("a good configuration");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let tally = LocalCounters::new(&metrics, &["cluster.local".to_string(), ".".to_string()]);
        let resolver = Arc::new(Resolver::new(Snapshot::new(config, &metrics, None), metrics));
        Self {
            snapshot: resolver.snapshot.load_full(),
            tally,
            stats_buffer: StatsBuffer::new(["cluster.local", "."]),
            upstreams: Rc::new(AtOnce),
            resolver,
            out: vec![0; 4096],
            runtime: Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")),
            tasks: Rc::default(),
        }
    }

    /// Returns a scene with the answer to a query in its cache.
    pub(crate) fn knowing(case: &packets::Case) -> Self {
        let scene = Self::new();
        let response = ResponseMessage::read(&case.response).expect("a good reply");
        let scope = scene.snapshot.scope(EffectiveViewId::COMMON, RouteId::of_index(1).expect("an index"), false);
        let entry = Entry::from_reply(&response, LIMITS, false, scope, scene.resolver.now());
        let (key, hash) = key_and_hash(&scene.resolver.cache, &case.query);
        scene.resolver.cache.insert(hash, &key, entry);
        scene
    }

    /// Begins a batch.
    pub(crate) fn batch(&mut self) -> Batch<'_> {
        Batch {
            context: self.resolver.context(&self.snapshot, Instant::now(), &mut self.tally, &mut self.stats_buffer),
            resolver: &self.resolver,
            upstreams: &self.upstreams,
            out: &mut self.out,
        }
    }

    /// Answers queries of one batch, all for new names, each in a task of its own as the server does. Returns the length of
    /// all responses.
    pub(crate) fn misses(&mut self, queries: &[Vec<u8>]) -> usize {
        let (runtime, tasks) = (Rc::clone(&self.runtime), Rc::clone(&self.tasks));
        tasks.block_on(&runtime, async {
            let mut batch = self.batch();
            let mut begun = Vec::with_capacity(queries.len());
            for query in queries {
                begun.push(batch.later(query));
            }
            let (mut bytes, mut out) = (0, vec![0; 4096]);
            for task in begun {
                let resolved = task.await.expect("it does not panic");
                assert_eq!((resolved.rcode(), resolved.source), (rcode::NOERROR, AnswerSource::Upstream));
                bytes += resolved.render(&self.resolver, &mut out);
            }
            bytes
        })
    }
}

/// Batch of queries, for which the clock was read once.
pub(crate) struct Batch<'a> {
    context: BatchContext<'a>,
    resolver: &'a Arc<Resolver>,
    upstreams: &'a Rc<AtOnce>,
    out: &'a mut [u8],
}

impl Batch<'_> {
    /// Answers a query from the cache; returns the length of the response.
    #[inline]
    pub(crate) fn hit(&mut self, query: &[u8]) -> usize {
        match self.respond(query) {
            Response::Reply(len) => len,
            _ => panic!("this is known"),
        }
    }

    /// Runs the first half of a miss.
    #[inline]
    pub(crate) fn first_half(&mut self, query: &[u8]) -> Box<Deferred> {
        match self.respond(query) {
            Response::Deferred(deferred) => deferred,
            _ => panic!("this is not known"),
        }
    }

    fn later(&mut self, query: &[u8]) -> JoinHandle<Resolved> {
        let deferred = self.first_half(query);
        let (resolver, upstreams) = (Arc::clone(self.resolver), Rc::clone(self.upstreams));
        spawn_local(async move { resolve(&resolver, &upstreams, deferred).await })
    }

    #[inline]
    fn respond(&mut self, query: &[u8]) -> Response {
        self.resolver.respond(&mut self.context, query, CLIENT, false, self.out)
    }
}

/// Returns the cache key of a query, and its hash.
#[inline]
pub(crate) fn key_and_hash(cache: &Cache, query: &[u8]) -> (CacheKey, u64) {
    let key = CacheKey::new(&Query::read(query).expect("a good query"), EffectiveViewId::COMMON);
    let hash = cache.hash(&key);
    (key, hash)
}

/// Returns the cache entry of a response.
#[inline]
pub(crate) fn entry(response: &[u8]) -> Entry {
    let scope = CacheScope::new(0, RouteId::of_index(0).expect("an index"), 0);
    Entry::from_reply(&ResponseMessage::read(response).expect("a good reply"), LIMITS, false, scope, 0)
}

/// Upstream without delay: two addresses for every name.
struct AtOnce;

impl Ask for AtOnce {
    async fn ask(&self, _: &Group, question: &Question, _: Option<IpAddr>, _: Instant) -> Result<Answer, Unanswered> {
        const HEADER: &[u8] = b"\x12\x34\x81\x80\x00\x01\x00\x02\x00\x00\x00\x01";
        const REST: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x00\
            \xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x01\
            \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
        let name = question.name.as_wire();
        let wire = [HEADER, name, &question.qtype.to_be_bytes(), &question.qclass.to_be_bytes(), REST].concat();
        Ok(Answer { wire, server: ([192, 0, 2, 2], 53).into(), transport: Transport::Udp })
    }
}
