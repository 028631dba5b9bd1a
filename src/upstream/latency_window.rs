//! Latencies of one server in the last minute: pure, time is an argument.
//!
//! Seven slots of ten seconds, six whole ones and the current one, so the numbers cover the last 60 to 70 s. A slot
//! counts responses by latency: in steps of 8 µs up to 128 µs, and beyond in eight steps for each doubling. A percentile
//! is the middle of its step, so its error is at most a sixteenth (below 128 µs: 4 µs). The slots take 4 KiB for each
//! server.

use std::time::Duration;

use tokio::time::Instant;

/// Duration of a slot.
const SLOT: Duration = Duration::from_secs(10);
/// Slots in the ring.
const SLOTS: usize = 7;
/// Width of the finest step.
const UNIT_MICROS: u64 = 8;
/// Steps for each doubling, as a power of two.
const STEPS_BITS: u32 = 3;
/// Number of steps: the last one counts all latencies of 7.9 s or longer.
const STEPS: usize = 144;

/// Histogram of the last minute.
#[derive(Debug)]
pub(crate) struct LatencyWindow {
    /// End of the current slot; `None` before the first response.
    ends: Option<Instant>,
    under_way: usize,
    slots: [[u32; STEPS]; SLOTS],
}

/// Numbers of the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    pub responses: u64,
    /// Latency that half of them did not exceed; `None` without a response.
    pub p50: Option<Duration>,
    /// Latency that 95 % of them did not exceed.
    pub p95: Option<Duration>,
    /// Latency that 99 % of them did not exceed.
    pub p99: Option<Duration>,
}

impl LatencyWindow {
    /// Creates an empty histogram.
    pub(crate) const fn new() -> Self {
        Self { ends: None, under_way: 0, slots: [[0; STEPS]; SLOTS] }
    }

    /// Counts a response after `latency`.
    #[inline]
    pub(crate) fn record(&mut self, now: Instant, latency: Duration) {
        let ends = *self.ends.get_or_insert(now + SLOT);
        if now >= ends {
            self.turn(now, ends);
        }
        let count = &mut self.slots[self.under_way][step(latency)];
        *count = count.saturating_add(1);
    }

    /// Returns the numbers of the last minute.
    pub(crate) fn latencies(&mut self, now: Instant) -> Latencies {
        if let Some(ends) = self.ends.filter(|ends| now >= *ends) {
            self.turn(now, ends);
        }
        let mut counts = [0_u64; STEPS];
        for slot in &self.slots {
            counts.iter_mut().zip(slot).for_each(|(sum, count)| *sum += u64::from(*count));
        }
        let responses = counts.iter().sum::<u64>();
        let percentile = |percent: u64| {
            let rank = (responses * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let reaches = |count: &u64| {
                seen += count;
                seen >= rank
            };
            counts.iter().position(reaches).map(middle)
        };
        Latencies { responses, p50: percentile(50), p95: percentile(95), p99: percentile(99) }
    }

    /// Begins the slot that contains `now`, and clears those that are too old.
    #[cold]
    fn turn(&mut self, now: Instant, ends: Instant) {
        let slots = now.saturating_duration_since(ends).as_secs() / SLOT.as_secs() + 1;
        for _ in 0..slots.min(SLOTS as u64) {
            self.under_way = (self.under_way + 1) % SLOTS;
            self.slots[self.under_way] = [0; STEPS];
        }
        self.ends = Some(ends + SLOT * u32::try_from(slots).unwrap_or(u32::MAX));
    }
}

impl Default for LatencyWindow {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the step of a latency.
fn step(latency: Duration) -> usize {
    // No wait takes as long as 64 bits of microseconds.
    let units = latency.as_micros() as u64 / UNIT_MICROS;
    let octave = units.checked_ilog2().unwrap_or(0).saturating_sub(STEPS_BITS);
    // Below two octaves of steps `octave` is 0, and a step is a unit.
    ((u64::from(octave) << STEPS_BITS) + (units >> octave)).min(STEPS as u64 - 1) as usize
}

/// Returns the middle of a step.
fn middle(step: usize) -> Duration {
    let (step, steps) = (step as u64, 1 << STEPS_BITS);
    let octave = (step / steps).saturating_sub(1);
    let floor = (step - octave * steps) << octave;
    Duration::from_micros(floor * UNIT_MICROS + ((UNIT_MICROS << octave) / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_percentile_is_off_by_a_sixteenth_at_most() {
        let mut micros = 1;
        let mut last = 0;
        while micros < 8_388_608 {
            let (real, told) = (Duration::from_micros(micros), middle(step(Duration::from_micros(micros))));
            let most = Duration::from_micros((micros / 16).max(4));
            assert!(real.abs_diff(told) <= most, "{real:?} is told as {told:?}");
            assert!((last..=last + 1).contains(&step(real)), "no step is left out and none goes back: {real:?}");
            last = step(real);
            micros += 1 + micros / 32;
        }
        assert_eq!(last, STEPS - 1);
        assert_eq!(step(Duration::from_secs(1 << 40)), STEPS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_replies() {
        let (now, mut latency_window) = (Instant::now(), LatencyWindow::new());
        assert_eq!(latency_window.latencies(now), Latencies::default());
        for n in 1..=1_000 {
            latency_window.record(now, MS * n);
        }
        let Latencies { responses, p50, p95, p99 } = latency_window.latencies(now);
        assert_eq!(responses, 1_000);
        for (told, real) in [(p50, 500), (p95, 950), (p99, 990)] {
            let told = told.expect("there are responses");
            assert!(told.abs_diff(MS * real) <= MS * real / 16, "{told:?}, not {real} ms");
        }
        let mut one = LatencyWindow::new();
        one.record(now, MS * 3);
        let Latencies { p50, p95, p99, .. } = one.latencies(now);
        assert_eq!((p50, p95), (p99, p99));
    }

    #[test]
    fn a_latency_counts_for_60_to_70_seconds() {
        // The current slot begins with the first response: a response at its end is dropped with it.
        for late in [0, 9] {
            let (start, mut latency_window) = (Instant::now(), LatencyWindow::new());
            latency_window.record(start, MS);
            latency_window.record(start + Duration::from_secs(late), MS);
            let mut responses = |seconds| latency_window.latencies(start + Duration::from_secs(seconds)).responses;
            assert_eq!([responses(late), responses(60), responses(69), responses(70)], [2, 2, 2, 0]);
        }
        // A quiet time of any length clears everything, and the slots begin again at the current time.
        let (start, mut latency_window) = (Instant::now(), LatencyWindow::new());
        latency_window.record(start, MS);
        let later = start + Duration::from_secs(1_000_003);
        assert_eq!(latency_window.latencies(later).responses, 0);
        latency_window.record(later, MS);
        latency_window.record(later - Duration::from_secs(5), MS);
        assert_eq!(latency_window.latencies(later + Duration::from_secs(56)).responses, 2);
        assert_eq!(latency_window.latencies(later + Duration::from_secs(70)).responses, 0);
    }
}
