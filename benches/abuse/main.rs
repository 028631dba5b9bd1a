//! Attacks on a DNS resolver, of nodens and its peers: `cargo bench --bench abuse -- --help`.
//!
//! ```text
//! options ──► run: for each attack, for each server: a new process, on a CPU of its own
//!              │     scene     the upstreams (two of its own: denying, links), and what the servers' configurations say of them
//!              │     honest    another client, which checks each answer: before the attack and under it
//!              │     visits    what it asks over TCP and looks up at the admin pages, under attack
//!              │     attack ──► datagrams, streams, reload    what the attacker does; packets: what it sends
//!              │     watch     memory of the process and of its sockets
//!              └► results: the table, and JSON
//!         └► soak: all attacks in turn on one process
//! ```
//!
//! It is a report and no test: the exit code is 0 whatever the figures are. What starts servers is that of the side-by-side
//! run (`benches/peers`), with the same templates.

#![allow(unreachable_pub)] // pub is what a file shows the others

mod attack;
mod datagrams;
mod denying;
mod floor;
mod forger;
mod honest;
mod links;
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
    // This program is its own helper: it pins and starts servers, and is the floor.
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
