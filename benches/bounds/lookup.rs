//! A million names within the process: a hit without the kernel's work for its two datagrams.
//!
//! The measured work is that of a server for a query: parse it, look it up, fit the cached response to it.

use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use nodens::answer::{LocalCounters, Resolver, Response};
use nodens::bench::names::Questions;
use nodens::cache::entry::{Entry, EntryLimits};
use nodens::config::RouteId;
use nodens::config::parse::parse;
use nodens::effective_view::EffectiveViewId;
use nodens::jobs::StatsBuffer;
use nodens::metrics::Metrics;
use nodens::snapshot::Snapshot;
use nodens::wire::cache_key::CacheKey;
use nodens::wire::query::Query;
use nodens::wire::response::ResponseMessage;
use tokio::time::Instant;

use super::Setting;
use super::finding::Finding;
use super::load::shuffled;
use super::responder::RECORD;
use super::workers::median;

/// Number of names in the small cache.
const FEW: usize = 1_000;
/// Configuration with room for a million names.
const CONFIG: &str = "[server]\nlisten = [\"127.0.0.1:0\"]\n[cache]\nmemory = \"512MiB\"\n\
                      [upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

/// Measures look-ups within the process.
pub(crate) fn measure(setting: &Setting) -> io::Result<Vec<Finding>> {
    let many = if setting.quick { 100_000 } else { 1_000_000 };
    let (mut small, mut large) = (Cache::of(&shuffled(FEW, FEW)?)?, Cache::of(&shuffled(many, many)?)?);
    let (few_questions, many_questions) = (shuffled(many, FEW)?, shuffled(many, many)?);
    let (mut few, mut all) = (Vec::new(), Vec::new());
    for _ in 0..if setting.quick { 1 } else { 5 } {
        few.push(small.cost(&few_questions)?);
        all.push(large.cost(&many_questions)?);
    }
    let ratios = few.iter().zip(&all).map(|(few, all)| all / few).collect();
    Ok(vec![
        Finding::plain("look-up in process, 1,000 names", median(few), "ns"),
        Finding::plain(format!("look-up in process, {many} names"), median(all), "ns"),
        Finding::at_most("look-up in process, many names to few", median(ratios), 1.3, "x"),
    ])
}

struct Cache {
    resolver: Resolver,
    snapshot: Arc<Snapshot>,
    tally: LocalCounters,
    stats_buffer: StatsBuffer,
}

impl Cache {
    /// Returns a resolver with the answers to all questions in its cache.
    fn of(questions: &Questions) -> io::Result<Self> {
        let config = parse(CONFIG, &[]).map_err(|diagnostics| io::Error::other(format!("{diagnostics:?}")))?;
        let metrics = Arc::new(Metrics::new().map_err(io::Error::other)?);
        let tally = LocalCounters::new(&metrics, &[".".to_string()]);
        let resolver = Resolver::new(Snapshot::new(config, &metrics, None), metrics);
        let snapshot = resolver.snapshot.load_full();
        let limits = EntryLimits { max_ttl: 86_400, negative_max_ttl: 300, rotate: true };
        let route = RouteId::of_index(0).ok_or_else(|| io::Error::other("no route"))?;
        for at in 0..questions.len() as u32 {
            let query = questions.query(at);
            let mut wire = [query, RECORD].concat();
            wire[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
            let (Ok(query), Ok(response)) = (Query::read(query), ResponseMessage::read(&wire)) else {
                return Err(io::Error::other("no query"));
            };
            let key = CacheKey::new(&query, EffectiveViewId::COMMON);
            let hash = resolver.cache.hash(&key);
            let entry = Entry::from_reply(
                &response,
                limits,
                false,
                snapshot.scope(EffectiveViewId::COMMON, route, false),
                resolver.now(),
            );
            resolver.cache.insert(hash, &key, entry);
            // A second look-up keeps the entry in the cache.
            resolver.cache.with(hash, &key, |_| ());
        }
        Ok(Self { resolver, snapshot, tally, stats_buffer: StatsBuffer::new(["."]) })
    }

    /// Returns the CPU time of a hit, in nanoseconds.
    fn cost(&mut self, questions: &Questions) -> io::Result<f64> {
        let client: IpAddr = Ipv4Addr::LOCALHOST.into();
        let mut out = [0; 4096];
        let mut context =
            self.resolver.context(&self.snapshot, Instant::now(), &mut self.tally, &mut self.stats_buffer);
        let mut hits = 0;
        let before = cpu()?;
        for at in 0..questions.len() as u32 {
            match self.resolver.respond(&mut context, questions.query(at), client, false, &mut out) {
                Response::Reply(len) => hits += u32::from(black_box(len) > 0),
                _ => return Err(io::Error::other("a name is not in the cache")),
            }
        }
        Ok((cpu()? - before) as f64 / f64::from(hits))
    }
}

/// Returns the CPU time of this thread, in nanoseconds.
fn cpu() -> io::Result<i64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
