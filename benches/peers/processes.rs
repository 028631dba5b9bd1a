//! What processes cost: CPU time and resident memory of a whole process group.
//!
//! A process's own CPU time is read from its clock, to the nanosecond: `/proc/PID/stat` counts in hundredths of a second,
//! too coarse for a server that has little to do. Only what its ended children spent is nowhere else.

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Ticks of a second in `/proc/PID/stat`: 100 in the kernel's interface, whatever its timer does.
const TICKS: u64 = 100;

/// CPU time, user and system, of all threads and processes of a group, with those that have ended.
pub fn cpu_time(group: u32) -> Duration {
    let of_one = |(pid, stat): (i32, Stat)| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).and_then(|clock| clock.now());
        // One that ends just now is counted by its parent.
        clock.map_or(Duration::ZERO, Duration::from) + Duration::from_millis(stat.children * (1_000 / TICKS))
    };
    stats(group).map(of_one).sum()
}

/// The field of resident memory in `/proc/PID/status`.
pub const RESIDENT: &str = "VmRSS:";

/// A field of memory, summed over a group's processes, in KiB.
pub fn memory(group: u32, field: &str) -> u64 {
    let of_one = |pid: i32| parse_kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, field);
    stats(group).filter_map(|(pid, _)| of_one(pid)).sum()
}

/// The processes of a group.
pub fn stats(group: u32) -> impl Iterator<Item = (i32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = parse_stat(&fs::read_to_string(entry.path().join("stat")).ok()?)?;
        (stat.group == group).then_some((pid, stat))
    })
}

/// What matters of a process.
#[derive(Debug, PartialEq)]
pub struct Stat {
    /// Its process group.
    pub group: u32,
    /// CPU time of its children that have ended, in ticks.
    pub children: u64,
}

/// One line of `/proc/PID/stat` (proc_pid_stat(5)). The name in parentheses may hold anything, parentheses too.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(") ")?;
    // rest: state, ppid, pgrp, ... and the fourteenth and fifteenth cutime and cstime
    let fields: Vec<&str> = rest.split(' ').collect();
    let group = fields.get(2)?.parse().ok()?;
    let times = fields.get(13..15)?.iter().map(|ticks| ticks.parse::<u64>().ok());
    Some(Stat { group, children: times.sum::<Option<u64>>()? })
}

/// A field of `/proc/PID/status` that is in KiB; none for a process that has ended.
pub fn parse_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
