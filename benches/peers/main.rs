//! nodens and its peers side by side on this machine: `cargo bench --bench peers -- --help`.
//!
//! ```text
//! options ──► server: installed servers ──► child: each on its own port, pinned ──┐
//!                                           upstream: one for all                 │
//!             ┌───────────────────────────────────────────────────────────────────┘
//!             └► for each round: for each mode: for each server, in random order:
//!                   ask: load ──► processes: CPU time meanwhile ──► results ──► table, markdown, chart, JSON
//! ```

#![allow(unreachable_pub)] // pub marks what other modules use

mod ask;
mod batch;
mod chart;
mod child;
mod floor;
mod machine;
mod markdown;
mod modes;
mod options;
mod processes;
mod results;
mod run;
mod server;
mod session;
mod table;
mod upstream;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // This program is its own helper: it pins and starts servers, and serves as the floor and, without nsd, as the upstream.
    let done = match args.get(1).map(String::as_str) {
        Some(child::START) => child::become_program(&args[2..]),
        Some(floor::FLOOR) => floor::serve(&args[2..]),
        Some(upstream::UPSTREAM) => upstream::serve(&args[2..]),
        _ => run::run(&options::Options::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
