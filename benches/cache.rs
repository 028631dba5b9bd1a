//! Cost of a look-up among many names, of an insertion, and of an eviction.

use divan::{AllocProfiler, Bencher, black_box};
use mimalloc::MiMalloc;
use nodens::cache::Cache;

mod scene;

use scene::{entry, key_and_hash, packets};

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

/// Cache size with room for the most names that are looked up.
const ROOMY: usize = 640 << 20;
/// Cache size with room for some 15,000 names.
const TIGHT: usize = 4 << 20;
/// Number of names that take turns where each must be new: a name comes round long after its eviction.
const ROUND: u32 = 1 << 16;

fn main() {
    divan::main();
}

/// Looks up names drawn evenly: with many names, no data of an entry is in the processor's caches.
#[divan::bench(args = [1_000, 1_000_000], sample_count = 200, sample_size = 1_000)]
fn look_up(bencher: Bencher<'_, '_>, names: u32) {
    let cache = Cache::new(ROOMY);
    (0..names).for_each(|number| keep(&cache, number));
    assert_eq!(cache.fill().entries, names as usize, "some were pushed out");
    let mut state = 1;
    bencher
        .with_inputs(|| key_and_hash(&cache, &packets::numbered(draw(&mut state) % names)))
        .bench_local_refs(|(key, hash)| cache.with(*hash, key, |entry| entry.hits).expect("it is known"));
}

/// Looks up names that are not in the cache.
#[divan::bench(args = [1_000, 1_000_000], sample_count = 200, sample_size = 1_000)]
fn look_up_in_vain(bencher: Bencher<'_, '_>, names: u32) {
    let cache = Cache::new(ROOMY);
    (0..names).for_each(|number| keep(&cache, number));
    let mut state = 1;
    bencher
        .with_inputs(|| key_and_hash(&cache, &packets::numbered(names + draw(&mut state) % names)))
        .bench_local_refs(|(key, hash)| assert!(cache.with(*hash, key, |_| ()).is_none()));
}

/// Inserts a newer response for a cached name.
#[divan::bench(sample_count = 200, sample_size = 1_000)]
fn insert_newer(bencher: Bencher<'_, '_>) {
    let cache = Cache::new(TIGHT);
    let case = packets::a();
    let (key, hash) = key_and_hash(&cache, &case.query);
    bencher
        .with_inputs(|| entry(&case.response))
        .bench_local_values(|entry| cache.insert(black_box(hash), black_box(&key), entry));
}

/// Inserts a new name, which evicts another.
#[divan::bench(sample_count = 200, sample_size = 1_000)]
fn insert_and_evict(bencher: Bencher<'_, '_>) {
    let cache = Cache::new(TIGHT);
    (0..ROUND).for_each(|number| keep(&cache, number));
    let before = cache.fill().evictions;
    assert!(before > 0, "it is not full");
    let mut round = (0..ROUND).cycle();
    bencher
        .with_inputs(|| {
            let query = packets::numbered(round.next().expect("it goes round"));
            let (key, hash) = key_and_hash(&cache, &query);
            (key, hash, entry(&answer(&query)))
        })
        .bench_local_values(|(key, hash, entry)| cache.insert(hash, &key, entry));
    assert!(cache.fill().evictions > before, "nothing was pushed out");
}

/// Caches the answer for the name with this number, and looks it up, so that newer names do not evict it at once.
fn keep(cache: &Cache, number: u32) {
    let query = packets::numbered(number);
    let (key, hash) = key_and_hash(cache, &query);
    cache.insert(hash, &key, entry(&answer(&query)));
    cache.with(hash, &key, |_| ());
}

fn answer(query: &[u8]) -> Vec<u8> {
    packets::response(query, &packets::addresses(2))
}

/// Returns the next pseudorandom number (xorshift).
fn draw(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}
