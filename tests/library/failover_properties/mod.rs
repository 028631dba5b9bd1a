//! Properties of failover for any behaviour of servers. The race, a server's health, the hedge budget and the rate limit
//! are pure state machines, driven by random schedules of responses, losses, errors and time.
//!
//! The seed is fixed: a run never fails by chance. `PROPTEST_RNG_SEED` sets another one.
#![allow(clippy::unwrap_used)]

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

mod health;
mod limits;
mod race;

fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    match default.rng_seed {
        RngSeed::Random => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..default },
        RngSeed::Fixed(_) => default,
    }
}
