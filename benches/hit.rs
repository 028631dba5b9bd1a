//! Cost of a hit, in steps and as a whole: time, and allocations, of which there are none.

use divan::{AllocProfiler, Bencher, black_box};
use mimalloc::MiMalloc;
use nodens::cache::Cache;
use nodens::effective_view::EffectiveViewId;
use nodens::wire::cache_key::CacheKey;
use nodens::wire::fit::{Age, fit};
use nodens::wire::query::Query;

mod scene;

use scene::packets::{self, Case};
use scene::{Scene, entry, key_and_hash};

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

/// Response size limits of a client without EDNS, and of one that announces the size that nodens does.
const PLAIN: usize = 512;
const EDNS: usize = 1_232;

fn main() {
    divan::main();
}

#[divan::bench(args = [packets::a(), packets::a_with_edns()], sample_size = 1_000)]
fn read(bencher: Bencher<'_, '_>, case: &Case) {
    bencher.bench_local(|| black_box(Query::read(black_box(&case.query))).is_ok());
}

#[divan::bench(sample_size = 1_000)]
fn key_hash(bencher: Bencher<'_, '_>) {
    let case = packets::a();
    let cache = Cache::new(1 << 20);
    let query = Query::read(&case.query).expect("a good query");
    bencher.bench_local(|| cache.hash(black_box(&CacheKey::new(black_box(&query), EffectiveViewId::COMMON))));
}

#[divan::bench(sample_size = 1_000)]
fn look_up(bencher: Bencher<'_, '_>) {
    let case = packets::a();
    let cache = Cache::new(1 << 20);
    let (key, hash) = key_and_hash(&cache, &case.query);
    cache.insert(hash, &key, entry(&case.response));
    bencher.bench_local(|| cache.with(black_box(hash), black_box(&key), |entry| entry.hits));
}

/// The cost does not depend on the age; the case of age zero confirms this.
#[divan::bench(args = [
    (packets::a(), 0, PLAIN),
    (packets::a(), 100, PLAIN),
    (packets::a_in_mixed_case(), 100, PLAIN),
    (packets::a_with_edns(), 100, EDNS),
    (packets::chain(), 100, PLAIN),
    (packets::large(), 100, PLAIN),
].map(Fit), sample_size = 1_000)]
fn fit_to_query(bencher: Bencher<'_, '_>, Fit((case, age, size)): &Fit) {
    let entry = entry(&case.response);
    let query = Query::read(&case.query).expect("a good query");
    let mut out = vec![0; *size];
    bencher.bench_local(|| {
        fit(
            black_box(entry.cached_message()),
            black_box(&query),
            Age::Seconds(black_box(*age)),
            &[],
            black_box(&mut out),
        )
    });
}

#[divan::bench(args = packets::cases(), sample_size = 1_000)]
fn whole(bencher: Bencher<'_, '_>, case: &Case) {
    let mut scene = Scene::knowing(case);
    let mut batch = scene.batch();
    bencher.bench_local(|| batch.hit(black_box(&case.query)));
}

/// Case, age in seconds, and size limit.
struct Fit((Case, u32, usize));

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self((case, age, _)) = self;
        write!(f, "{case}, {age} s old")
    }
}
