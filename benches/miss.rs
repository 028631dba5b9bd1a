//! Cost of a miss, without the upstream's time and the sockets: time and allocations.

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use mimalloc::MiMalloc;
use nodens::wire::response::ResponseMessage;

mod scene;

use scene::packets::{self, Case};
use scene::{BATCH, Scene, entry};

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

fn main() {
    divan::main();
}

#[divan::bench(args = [packets::a(), packets::chain(), packets::large()], sample_size = 1_000)]
fn read_reply(bencher: Bencher<'_, '_>, case: &Case) {
    bencher.bench_local(|| ResponseMessage::read(black_box(&case.response)));
}

/// From the upstream's bytes to the cache entry.
#[divan::bench(args = [packets::a(), packets::chain(), packets::large()], sample_size = 1_000)]
fn read_and_store(bencher: Bencher<'_, '_>, case: &Case) {
    bencher.bench_local(|| entry(black_box(&case.response)));
}

/// From the query to the decision to forward it.
#[divan::bench(sample_size = 1_000)]
fn first_half(bencher: Bencher<'_, '_>) {
    let query = packets::numbered(0);
    let mut scene = Scene::new();
    let mut batch = scene.batch();
    bencher.bench_local(|| batch.first_half(black_box(&query)));
}

/// From simultaneous queries, all for new names, to responses that are ready to be sent. The time is that of all of them.
#[divan::bench(args = [1, BATCH], sample_count = 1_000)]
fn whole(bencher: Bencher<'_, '_>, together: usize) {
    let mut scene = Scene::new();
    let mut numbers = 0..;
    let queries = || numbers.by_ref().take(together).map(packets::numbered).collect::<Vec<_>>();
    bencher
        .counter(ItemsCount::new(together))
        .with_inputs(queries)
        .bench_local_refs(|queries| scene.misses(black_box(queries)));
}
