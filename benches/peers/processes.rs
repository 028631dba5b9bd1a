//! Cost of processes: CPU time and resident memory of a process group.
//!
//! A process's own CPU time is read from its clock, in nanoseconds: `/proc/PID/stat` counts in hundredths of a second, too
//! coarse for a server with little to do. Only the CPU time of ended children is read from there.

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Ticks per second in `/proc/PID/stat`: 100 in the kernel's interface, whatever the rate of its timer.
const TICKS: u64 = 100;

/// Returns the CPU time, user and system, of all threads and processes of a group, including those that have ended.
pub fn cpu_time(group: u32) -> Duration {
    let of_one = |(pid, stat): (i32, Stat)| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).and_then(|clock| clock.now());
        // A process that has just ended is counted by its parent.
        clock.map_or(Duration::ZERO, Duration::from) + Duration::from_millis(stat.children * (1_000 / TICKS))
    };
    stats(group).map(of_one).sum()
}

/// Field of resident memory in `/proc/PID/status`.
pub const RESIDENT: &str = "VmRSS:";

/// Returns a memory field, summed over a group's processes, in KiB.
pub fn memory(group: u32, field: &str) -> u64 {
    let of_one = |pid: i32| parse_kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, field);
    stats(group).filter_map(|(pid, _)| of_one(pid)).sum()
}

/// Returns the processes of a group.
pub fn stats(group: u32) -> impl Iterator<Item = (i32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = parse_stat(&fs::read_to_string(entry.path().join("stat")).ok()?)?;
        (stat.group == group).then_some((pid, stat))
    })
}

/// Fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq)]
pub struct Stat {
    /// Its process group.
    pub group: u32,
    /// CPU time of its children that have ended, in ticks.
    pub children: u64,
}

/// Parses one line of `/proc/PID/stat` (proc_pid_stat(5)). The name in parentheses may hold anything, including parentheses.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(") ")?;
    // rest: state, ppid, pgrp, ... and the fourteenth and fifteenth cutime and cstime
    let fields: Vec<&str> = rest.split(' ').collect();
    let group = fields.get(2)?.parse().ok()?;
    let times = fields.get(13..15)?.iter().map(|ticks| ticks.parse::<u64>().ok());
    Some(Stat { group, children: times.sum::<Option<u64>>()? })
}

/// Parses a field of `/proc/PID/status` that is in KiB; returns `None` for a process that has ended.
pub fn parse_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
