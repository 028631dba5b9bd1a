//! Checks of the repository: the layers of the code, the vocabulary, the documentation, the published results.
// The benchmark's files form a crate of their own in `benches/`, in which these items are reachable.
#![allow(unreachable_pub)]

mod imports;
mod layers;
mod pages;
mod peers_bench;
mod sizes;
mod words;

#[path = "../../benches/peers/chart.rs"]
mod chart;
#[path = "../../benches/peers/machine.rs"]
mod machine;
#[path = "../../benches/peers/markdown.rs"]
mod markdown;
#[path = "../../benches/peers/modes.rs"]
mod modes;
#[path = "../../benches/peers/processes.rs"]
mod processes;
#[path = "../../benches/peers/results.rs"]
mod results;
#[path = "../../benches/peers/table.rs"]
mod table;
