//! What must hold of failover whatever servers do and whenever they do it: the race, a server's health, the budget of
//! hedges and the quota as pure state machines, driven by random schedules of replies, losses, errors and time.
//!
//! The seed is fixed, so that a run never fails by chance; another one is tried with `PROPTEST_RNG_SEED`.
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
