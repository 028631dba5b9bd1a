//! Large configurations: their memory, and the estimate of `nodens check`.

use std::fs;
use std::process::Command;

use crate::support::client::{ask_udp, data, lookup, query};
use crate::support::{Dir, Nodens, eventually, serve};

/// Reloads of each configuration; memory peaks during these.
const RELOADS: usize = 3;

const BASE: &str = "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[admin]\nlisten = \"127.0.0.1:0\"\n\
                    [upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

/// Returns a configuration of 8,000 records, 1,000 routes, 1,000 clients, and 32 views that deny a zone each.
fn large() -> String {
    let mut text = BASE.to_owned();
    for n in 0..8_000 {
        let (high, low) = (n / 250, n % 250);
        text += &format!("[[record]]\nname = \"n{n}.corp.example\"\ntype = \"A\"\nvalue = \"10.0.{high}.{low}\"\n");
    }
    for n in 0..1_000 {
        let (high, low) = (n / 250, n % 250);
        text += &format!("[[route]]\nzones = [\"z{n}.example\"]\nto = \"up\"\n");
        text += &format!("[[client]]\nsource = \"10.1.{high}.{low}\"\nname = \"m{n}\"\nproject = \"g/p{n}\"\n");
    }
    for n in 0..32 {
        text += &format!("[[view]]\nname = \"v{n}\"\nnamespaces = [\"n{n}\"]\ndeny = [\"d{n}.example\"]\n");
    }
    text
}

/// Returns the peak memory of a process that has reloaded this configuration `RELOADS` times, in MiB.
fn most_memory(text: &str) -> usize {
    let dir = Dir::new();
    let file = dir.write("nodens.toml", text);
    let nodens = Nodens::spawn(serve().arg("--no-supervisor").arg("--config").arg(&file), dir);
    let taken = ("nodens_config_reloads_total", [("result", "applied")]);
    for number in 1..=RELOADS {
        fs::write(&file, format!("{text}# {number}\n")).expect("writes");
        nodens.signal("HUP");
        nodens.metric_becomes(taken.0, &taken.1, |count| count >= number as f64);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", nodens.id())).expect("its status");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    most.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") >> 10
}

/// Returns the name and the nice value of each thread of a process: see proc_pid_stat(5).
fn nice(process: u32) -> Vec<(String, i32)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("its threads").flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let thread = |stat: String| {
        let (name, rest) = stat.rsplit_once(") ")?;
        let nice = rest.split(' ').nth(16)?.parse().ok()?;
        Some((name.split_once('(')?.1.to_owned(), nice))
    };
    stats.filter_map(thread).collect()
}

#[test]
fn reload_threads_yield_to_workers() {
    let dir = Dir::new();
    let file = dir.write("nodens.toml", BASE);
    let nodens = Nodens::spawn(serve().arg("--no-supervisor").arg("--config").arg(&file), dir);
    nodens.signal("HUP");
    nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |count| count >= 1.0);
    // A thread sets its name and its nice value a moment after it starts.
    eventually("threads that give way", || {
        let threads = nice(nodens.id());
        let of = |name: &str| threads.iter().find(|thread| thread.0 == name).map(|thread| thread.1);
        let worker = of("nodens-0")?;
        let gives_way = of("nodens")? > worker && of("nodens-free")? > worker && of("nodens-control")? == worker;
        gives_way.then_some(())
    });
}

#[test]
fn check_says_what_memory_a_large_configuration_takes() {
    let dir = Dir::new();
    let file = dir.write("nodens.toml", &large());
    let output = Command::new(env!("CARGO_BIN_EXE_nodens")).arg("check").arg(&file).output().expect("nodens runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.trim().strip_suffix("MiB)").and_then(|text| text.rsplit_once("configuration ")).expect(&text).1;
    let said = said.parse::<usize>().expect(&text);
    let taken = most_memory(&large()).saturating_sub(most_memory(BASE));
    assert!(taken <= said * 3 / 2 && said <= taken * 3, "{said} MiB are said, {taken} are taken");
}

#[test]
fn hosts_files_answer_and_are_reread() {
    let dir = Dir::new();
    let hosts = dir.write("a.hosts", "10.0.0.1 git.corp.example git\n10.0.0.2 own.corp.example\nnonsense\n");
    dir.write("b.txt", "10.0.0.9 git.corp.example\n");
    let record = "[[record]]\nname = \"own.corp.example\"\ntype = \"A\"\nvalue = \"10.0.0.7\"\n";
    let pattern = hosts.with_file_name("*.hosts");
    let file = dir.write("nodens.toml", &format!("{BASE}{record}[hosts]\nfiles = [\"{}\"]\n", pattern.display()));
    let output = Command::new(env!("CARGO_BIN_EXE_nodens")).arg("check").arg(&file).output().expect("nodens runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told, format!("{}:3: \"nonsense\" is not an address\n", hosts.display()));
    let nodens = Nodens::spawn(serve().arg("--config").arg(&file), dir);
    let address = |name: &str| data(&lookup(nodens.address(), name));
    assert_eq!([address("git.corp.example"), address("own.corp.example")], [["10.0.0.1"], ["10.0.0.7"]]);
    let reverse = ask_udp(nodens.address(), &query(7, "1.0.0.10.in-addr.arpa", 12));
    assert_eq!(data(&reverse), ["git.corp.example."]);
    fs::write(&hosts, "10.0.0.3 git.corp.example\n").expect("writes");
    eventually("the changed address", || (address("git.corp.example") == ["10.0.0.3"]).then_some(()));
    fs::write(hosts.with_file_name("c.hosts"), "10.0.0.4 new.corp.example\n").expect("writes");
    eventually("the new file", || (address("new.corp.example") == ["10.0.0.4"]).then_some(()));
}
