//! Attacks on a DNS resolver, nodens or one of its peers: `cargo bench --bench abuse -- --help`.
//!
//! ```text
//! options ──► run: for each attack, for each server: a new process, on a CPU of its own
//!              │     scene     the upstreams (two of its own: denying, links), and their part of the configurations
//!              │     honest    the honest client, which checks each answer: before and during the attack
//!              │     visits    its queries over TCP and requests to the admin pages, during the attack
//!              │     attack ──► datagrams, streams, reload    the attacks; packets: their messages
//!              │     watch     memory of the process and of its sockets
//!              └► results: the table, and JSON
//!         └► soak: all attacks in turn on one process
//! ```
//!
//! This is a report, not a test: the exit code is 0 whatever the figures are. The code and templates that start servers are
//! those of the side-by-side run (`benches/peers`).

#![allow(unreachable_pub)] // pub marks what other modules use

mod attack;
mod datagrams;
mod denying;
mod floor;
mod forger;
mod honest;
mod links;
mod many_clients;
mod options;
mod packets;
mod reload;
mod results;
mod run;
mod scene;
mod soak;
mod streams;
mod visits;
mod watch;

#[path = "../peers/batch.rs"]
mod batch;
#[path = "../peers/child.rs"]
mod child;
#[path = "../peers/machine.rs"]
mod machine;
#[path = "../peers/processes.rs"]
mod processes;
#[path = "../peers/server.rs"]
mod server;
#[path = "../peers/session.rs"]
mod session;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // This program is its own helper: it pins and starts servers, and serves as the floor.
    let done = match args.get(1).map(String::as_str) {
        Some(child::START) => child::become_program(&args[2..]),
        Some(floor::FLOOR) => floor::serve(&args[2..]),
        _ => run::run(&options::Options::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("abuse: {error}");
            ExitCode::FAILURE
        }
    }
}
