//! The run: starts all servers, measures in rounds, and writes the results.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use nodens::bench::draw::Random;

use crate::ask::Load;
use crate::chart;
use crate::child::{Running, pin};
use crate::machine::{machine, today};
use crate::markdown;
use crate::modes::Mode;
use crate::options::Options;
use crate::processes::{RESIDENT, cpu_time, memory};
use crate::results::{ModeResults, Results, Server};
use crate::server::{SERVERS, Site, Started};
use crate::session::{Dir, cpus, interrupted, say, stop_on_signal, write};
use crate::table::tables;
use crate::upstream::{NSD, RESPONDER, write_zone};

/// Seed of the order of the servers in each round.
const SEED: u64 = 1;
/// Runs the measurements that the options select.
///
/// # Errors
/// Returns an error if nothing could be started, a file cannot be written, or the user ended the run.
pub fn run(options: &Options) -> io::Result<()> {
    let results = match &options.from {
        Some(file) => serde_json::from_str(&fs::read_to_string(file)?)?,
        None => measured(options)?,
    };
    io::stdout().write_all(tables(&results).as_bytes())?;
    write(options.json.as_deref(), || {
        // One line for each sample.
        let json = serde_json::to_string(&results)?.replace("[[", "[[\n").replace("},{", "},\n{");
        Ok(json.replace("],[", "],[\n") + "\n")
    })?;
    write(options.svg.as_deref(), || Ok(chart::chart(&results)))?;
    write(options.markdown.as_deref(), || Ok(markdown::table(&results)))?;
    if results.modes.iter().flat_map(|mode| &mode.samples).any(Vec::is_empty) {
        return Err(io::Error::other("a server could not be measured in a mode; the progress says why"));
    }
    Ok(())
}

/// Starts all servers and measures them.
fn measured(options: &Options) -> io::Result<Results> {
    let stop = stop_on_signal();
    let dir = Dir::new("peers")?;
    let (servers_cpu, load_cpu) = cpus()?;
    match (servers_cpu, load_cpu) {
        (Some(one), Some(other)) => say(&format!("servers on CPU {one}, load and upstream on CPU {other}")),
        _ => say("one CPU: servers, load and upstream share it, and compete for it"),
    }
    let upstream = start_upstream(options, &dir.0, load_cpu, &stop)?;
    say(&format!("upstream: {}", upstream.title()));
    let started = start_servers(options, &dir.0, servers_cpu, upstream.address, &stop)?;

    let modes: Vec<Mode> =
        Mode::ALL.into_iter().filter(|mode| options.modes.is_empty() || options.modes.contains(mode)).collect();
    let mut results = Results {
        date: today(),
        machine: machine(),
        upstream: upstream.title(),
        rounds: options.rounds(),
        seconds: options.seconds(),
        rate: options.rate,
        servers: started.iter().map(described).collect(),
        modes: modes.into_iter().map(|mode| ModeResults { mode, samples: vec![Vec::new(); started.len()] }).collect(),
    };
    if let Some(cpu) = load_cpu {
        pin(cpu)?; // from here on, this program is the load
    }
    measure(options, &started, &mut results, &stop)?;
    for (server, started) in results.servers.iter_mut().zip(&started) {
        server.memory_mib[1] = mib(&started.running);
    }
    drop((started, upstream));

    say("");
    Ok(results)
}

/// Measures all rounds.
fn measure(options: &Options, started: &[Started], results: &mut Results, stop: &AtomicBool) -> io::Result<()> {
    let mut order: Vec<usize> = (0..started.len()).collect();
    let mut random = Random::new(SEED);
    for round in 0..options.rounds() {
        for mode in &mut results.modes {
            let load = Load::new(mode.mode, round, options.seconds(), options.rate)?;
            random.shuffle(&mut order);
            for at in &order {
                let server = &started[*at];
                let group = server.running.group();
                let sample = load.warm(server, stop).and_then(|()| load.measure(server, || cpu_time(group), stop));
                interrupted(stop)?;
                let told = match sample {
                    Ok(sample) => {
                        let told = format!("{:.2} us of CPU for an answer, {:.0} answers/s", sample.cpu_us, sample.qps);
                        mode.samples[*at].push(sample);
                        told
                    }
                    Err(error) => error.to_string(),
                };
                say(&format!(
                    "round {} of {}, {}: {}: {told}",
                    round + 1,
                    options.rounds(),
                    mode.mode.title(),
                    server.name
                ));
            }
        }
    }
    Ok(())
}

fn start_upstream(options: &Options, dir: &Path, cpu: Option<usize>, stop: &AtomicBool) -> io::Result<Started> {
    let site = Site { dir, cpu, open_files: None, edit: &str::to_owned };
    if let Some(program) = NSD.find(&options.programs) {
        fs::create_dir(dir.join(NSD.name))?;
        write_zone(&dir.join(NSD.name).join("zone"))?;
        match NSD.start(&program, &site, stop) {
            Ok(started) => return Ok(started),
            Err(error) => say(&format!("{}: {error}", NSD.name)),
        }
    }
    RESPONDER.start(&std::env::current_exe()?, &site, stop)
}

fn start_servers(
    options: &Options,
    dir: &Path,
    cpu: Option<usize>,
    upstream: SocketAddr,
    stop: &AtomicBool,
) -> io::Result<Vec<Started>> {
    let edit = |template: &str| template.replace("%UPSTREAM%", &upstream.port().to_string());
    let site = Site { dir, cpu, open_files: None, edit: &edit };
    let mut started = Vec::new();
    for server in &SERVERS {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == server.name) {
            continue;
        }
        let Some(program) = server.find(&options.programs) else {
            say(&format!("{}: not installed", server.name));
            continue;
        };
        interrupted(stop)?;
        match server.start(&program, &site, stop) {
            Ok(server) => {
                say(&format!("{}: started in {:.0} ms", server.title(), server.start.as_secs_f64() * 1e3));
                started.push(server);
            }
            Err(error) => say(&format!("{}: {error}", server.name)),
        }
    }
    if started.is_empty() { Err(io::Error::other("no server could be started")) } else { Ok(started) }
}

fn described(server: &Started) -> Server {
    Server {
        name: server.name.to_owned(),
        version: server.version.clone(),
        start_ms: (server.start.as_secs_f64() * 1e3).round(),
        memory_mib: [mib(&server.running), 0.0],
    }
}

/// Returns the resident memory, rounded to a tenth of a MiB.
fn mib(running: &Running) -> f64 {
    (memory(running.group(), RESIDENT) as f64 * 10.0 / 1024.0).round() / 10.0
}
