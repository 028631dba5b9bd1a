//! Faults of this machine: a counter for each cause, and whether the fault persists.
//!
//! A fault that affects every query is one event when it begins and one when it ends, not one for each query.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus::{IntCounter, Registry};

use super::events::{EventKind, RecentEvents, UnixMillis};
use super::register::counters;

/// Values of the label `cause`, each with its event text.
pub(crate) const CAUSES: [(&str, &str); 6] = [
    ("descriptors", "no file descriptor left (EMFILE, ENFILE); raise the limit of open files, see process_max_fds"),
    ("buffers", "no memory or buffer for a socket (ENOBUFS, ENOMEM, EAGAIN, ENOSPC)"),
    ("ports", "no local port left (EADDRNOTAVAIL, EADDRINUSE); see net.ipv4.ip_local_port_range"),
    ("forbidden", "a socket operation is forbidden here (EPERM); see the firewall's output rules"),
    ("unsupported", "a socket operation is not supported here (EAFNOSUPPORT, EINVAL: a blackhole route, and the like)"),
    ("busy", "too many queries in flight to one server"),
];

/// Time in milliseconds without a fault after which it is over.
const OVER_AFTER: UnixMillis = 10_000;

/// Faults of all threads.
#[derive(Debug)]
pub struct Faults {
    causes: [FaultCause; CAUSES.len()],
    events: Arc<RecentEvents>,
}

#[derive(Debug)]
struct FaultCause {
    count: IntCounter,
    last: AtomicU64,
    lasts: AtomicBool,
}

impl Faults {
    pub(super) fn new(registry: &Registry, events: Arc<RecentEvents>) -> prometheus::Result<Self> {
        let counts = counters(
            registry,
            "local_faults_total",
            "Socket operations that this machine refused, by cause: descriptors, buffers, ports, forbidden, unsupported or busy. They are not held against a server.",
            &["cause"],
        )?;
        let cause = |index: usize| FaultCause {
            count: counts.with_label_values(&[CAUSES[index].0]),
            last: AtomicU64::new(0),
            lasts: AtomicBool::new(false),
        };
        Ok(Self { causes: array::from_fn(cause), events })
    }

    /// Counts a fault by its index in [`CAUSES`]; the first one is an event.
    pub fn count(&self, index: usize, now: UnixMillis) {
        let Some(cause) = self.causes.get(index) else { return };
        cause.count.inc();
        cause.last.store(now, Ordering::Relaxed);
        if !cause.lasts.swap(true, Ordering::Relaxed) {
            self.events.record(now, EventKind::LocalFault, (None, None), CAUSES[index].1);
        }
    }

    /// Records an event for each fault that is over.
    pub fn check(&self, now: UnixMillis) {
        for (cause, (label, _)) in self.causes.iter().zip(CAUSES) {
            let is_over = now.abs_diff(cause.last.load(Ordering::Relaxed)) >= OVER_AFTER;
            if cause.lasts.load(Ordering::Relaxed) && is_over && cause.lasts.swap(false, Ordering::Relaxed) {
                self.events.record(now, EventKind::LocalFaultCleared, (None, None), label);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_when_it_begins_and_when_it_is_over() {
        let events = Arc::<RecentEvents>::default();
        let faults = Faults::new(&Registry::new(), Arc::clone(&events)).expect("metrics");
        let told = || -> Vec<_> { events.after(0).0.iter().map(|event| event.kind).collect() };
        faults.check(1);
        assert!(told().is_empty());
        (0..1_000).for_each(|now| faults.count(0, now));
        faults.check(999 + OVER_AFTER - 1);
        assert_eq!(told(), [EventKind::LocalFault]);
        faults.check(999 + OVER_AFTER);
        faults.check(2 * OVER_AFTER);
        assert_eq!(told(), [EventKind::LocalFault, EventKind::LocalFaultCleared]);
        faults.count(0, 3 * OVER_AFTER);
        faults.count(CAUSES.len(), 3 * OVER_AFTER);
        assert_eq!(told().len(), 3);
        assert_eq!(faults.causes[0].count.get(), 1_001);
    }
}
