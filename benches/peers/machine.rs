//! Machine and date.

use std::fs;
use std::time::{Duration, SystemTime};

/// Returns the processor, the number of CPUs and the kernel, as far as the system reports them.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = if count == 1 { "1 CPU".to_owned() } else { format!("{count} CPUs") };
    format!("{}, {cpus}, Linux {}", processor(&cpuinfo), kernel.trim())
}

/// Returns today's date, in UTC.
pub fn today() -> String {
    date(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Returns the processor's name in `/proc/cpuinfo`, or its architecture if there is none.
pub fn processor(cpuinfo: &str) -> &str {
    let named = |line: &'_ str| line.starts_with("model name");
    let name = cpuinfo.lines().find(|line| named(line)).and_then(|line| line.split_once(": "));
    name.map_or(std::env::consts::ARCH, |(_, name)| name.trim())
}

/// Returns the date of the Gregorian calendar; counts the years one by one.
pub fn date(since_1970: Duration) -> String {
    let mut days = since_1970.as_secs() / 86_400;
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}
