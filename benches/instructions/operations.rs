//! The counted operations and their bounds: the only table to change when the cost of an operation changes on purpose.

use std::hint::black_box;

use nodens::cache::Cache;
use nodens::effective_view::EffectiveViewId;
use nodens::wire::cache_key::CacheKey;
use nodens::wire::fit::{Age, fit};
use nodens::wire::query::Query;

use super::scene::{BATCH, Scene, entry, key_and_hash, packets};

/// Operation that is repeated and counted.
pub(crate) struct Operation {
    /// Name in the table and on the command line.
    pub(crate) name: &'static str,
    /// Most instructions of one repetition, a few percent above the count at the time when the bound was set (see
    /// README.md).
    pub(crate) bound: u64,
    /// Prepares, and then repeats the operation the given number of times. The preparation must not depend on the number.
    pub(crate) run: fn(usize),
}

/// All operations, in the order in which a query meets them.
pub(crate) const OPERATIONS: [Operation; 9] = [
    Operation { name: "read", bound: 140, run: read },
    Operation { name: "key-hash", bound: 470, run: key_hash },
    Operation { name: "look-up", bound: 150, run: look_up },
    Operation { name: "fit", bound: 265, run: fit_plain },
    Operation { name: "fit-edns", bound: 326, run: fit_edns },
    Operation { name: "hit", bound: 1_400, run: |times| hit(&packets::a(), times) },
    Operation { name: "hit-edns", bound: 1_580, run: |times| hit(&packets::a_with_edns(), times) },
    Operation { name: "hit-cname", bound: 1_455, run: |times| hit(&packets::chain(), times) },
    Operation { name: "miss", bound: 15_300, run: miss },
];

/// Number of repetitions in the first run; the second run has twice as many.
pub(crate) const TIMES: usize = 64 * BATCH;

fn read(times: usize) {
    let case = packets::a();
    for _ in 0..times {
        let _ = black_box(Query::read(black_box(&case.query)));
    }
}

fn key_hash(times: usize) {
    let case = packets::a();
    let cache = Cache::new(1 << 20);
    let query = Query::read(&case.query).expect("a good query");
    for _ in 0..times {
        black_box(cache.hash(black_box(&CacheKey::new(black_box(&query), EffectiveViewId::COMMON))));
    }
}

fn look_up(times: usize) {
    let case = packets::a();
    let cache = Cache::new(1 << 20);
    let (key, hash) = key_and_hash(&cache, &case.query);
    cache.insert(hash, &key, entry(&case.response));
    for _ in 0..times {
        black_box(cache.with(black_box(hash), black_box(&key), |entry| entry.hits));
    }
}

fn fit_plain(times: usize) {
    fit_to(&packets::a(), times);
}

fn fit_edns(times: usize) {
    fit_to(&packets::a_with_edns(), times);
}

fn fit_to(case: &packets::Case, times: usize) {
    let entry = entry(&case.response);
    let query = Query::read(&case.query).expect("a good query");
    let mut out = vec![0; usize::from(query.udp_size())];
    for _ in 0..times {
        let age = Age::Seconds(black_box(100));
        black_box(fit(black_box(entry.cached_message()), black_box(&query), age, &[], black_box(&mut out)));
    }
}

fn hit(case: &packets::Case, times: usize) {
    let mut scene = Scene::knowing(case);
    let mut batch = scene.batch();
    for _ in 0..times {
        black_box(batch.hit(black_box(&case.query)));
    }
}

/// Resolves new names, in batches.
///
/// Each resolver places entries in its hash tables at random, so the work is spread over many resolvers.
fn miss(times: usize) {
    const RESOLVERS: usize = 128;
    // The shorter run prepares everything that the longer run needs, too.
    let mut names = (0..).map(packets::numbered);
    let mut prepare = || {
        let mut scene = Scene::new();
        // The first batch grows empty tables and lists, which happens only once.
        scene.misses(&names.by_ref().take(BATCH).collect::<Vec<_>>());
        let queries: Vec<_> = names.by_ref().take(2 * TIMES / RESOLVERS).collect();
        (scene, queries)
    };
    let mut scenes: Vec<_> = (0..RESOLVERS).map(|_| prepare()).collect();
    for (scene, queries) in &mut scenes[..times * RESOLVERS / (2 * TIMES)] {
        for batch in queries.chunks(BATCH) {
            black_box(scene.misses(black_box(batch)));
        }
    }
}
