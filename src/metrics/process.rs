//! Process metrics with the standard names of Prometheus client libraries, read from procfs.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use prometheus::{Counter, IntGauge, Opts, Registry};

use super::register::register;

/// Resources of the process, as of the last [`ProcessMetrics::refresh`].
#[derive(Debug)]
pub struct ProcessMetrics {
    cpu_seconds: Counter,
    open_fds: IntGauge,
    max_fds: IntGauge,
    virtual_memory: IntGauge,
    resident_memory: IntGauge,
    threads: IntGauge,
}

impl ProcessMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| register(registry, IntGauge::with_opts(Opts::new(name, help))?);
        let cpu = Opts::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
        let metrics = Self {
            cpu_seconds: register(registry, Counter::with_opts(cpu)?)?,
            open_fds: gauge("process_open_fds", "Number of open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors.")?,
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            resident_memory: gauge("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            threads: gauge("process_threads", "Number of OS threads in the process.")?,
        };
        let start = gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")?;
        start.set(start_time().unwrap_or(0));
        metrics.refresh();
        Ok(metrics)
    }

    /// Updates all values. A value that cannot be read does not change.
    pub fn refresh(&self) {
        if let Ok(time) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) {
            let seconds = time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9;
            self.cpu_seconds.inc_by((seconds - self.cpu_seconds.get()).max(0.0));
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Reading the directory opens one temporary descriptor.
            self.open_fds.set(open.count().saturating_sub(1) as i64);
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            self.max_fds.set(i64::try_from(soft).unwrap_or(i64::MAX));
        }
        if let Ok(stat) = Stat::read() {
            self.virtual_memory.set(stat.virtual_bytes);
            self.resident_memory.set(stat.resident_pages * system(SysconfVar::PAGE_SIZE).unwrap_or(4_096));
            self.threads.set(stat.threads);
        }
    }
}

/// The used fields of `/proc/self/stat`; see proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    threads: i64,
    start_ticks: i64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl Stat {
    fn read() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(text: &str) -> Option<Self> {
        // The program name, field 2, is in parentheses and may contain spaces and parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Returns the start time of the process in seconds since 1970.
fn start_time() -> Option<i64> {
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + Stat::read().ok()?.start_ticks / system(SysconfVar::CLK_TCK)?)
}

/// Returns a positive system constant.
fn system(name: SysconfVar) -> Option<i64> {
    sysconf(name).ok().flatten().filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_program_name() {
        let text = "1 (a) b (c) S 0 1 1 0 -1 4194560 9 8 7 6 5 4 3 2 20 0 17 0 4242 123456 789 18446744073709551615";
        let stat = Stat { threads: 17, start_ticks: 4_242, virtual_bytes: 123_456, resident_pages: 789 };
        assert_eq!(Stat::parse(text), Some(stat));
        for broken in ["", "1 (a", "1 (a) S 0 1", &text.replace("4242", "x")] {
            assert_eq!(Stat::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_memory_descriptors_and_a_past() {
        let metrics = ProcessMetrics::new(&Registry::new()).expect("metrics");
        assert!(
            metrics.resident_memory.get() > 1 << 20 && metrics.virtual_memory.get() > metrics.resident_memory.get()
        );
        assert!((3..=metrics.max_fds.get()).contains(&metrics.open_fds.get()));
        assert!(metrics.threads.get() >= 1 && metrics.cpu_seconds.get() > 0.0);
        assert!(start_time().expect("a time") > 1_700_000_000);
    }
}
