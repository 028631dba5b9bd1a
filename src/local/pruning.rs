//! Whether a cluster's server really has no names of the forms that are denied without asking. CoreDNS with `hosts`, `rewrite`,
//! `template` or `fallthrough` may have some; then the rule gives wrong answers, and is given up.
//!
//! Of the names that are denied the first of each form is asked for all the same, in the background, and then one in
//! [`SAMPLE`]. One that exists ends the rule for the route, until nodens is restarted or the route changes.
//!
//! Pure.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Of so many names that are denied one is asked for, beside the first of each form.
pub const SAMPLE: u32 = 100;
/// Label counts that are told apart; longer names count as one form.
const LABELS: usize = 16;

/// The form of a name below a cluster's domain, as far as the rules tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form(u8);

/// What the name is below, within the cluster's domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// Services.
    Svc,
    /// Pods.
    Pod,
    /// Neither.
    Domain,
}

impl Form {
    /// The form of a name with `labels` labels before the cluster's domain.
    pub fn new(below: Below, labels: usize) -> Self {
        Self((below as usize * LABELS + labels.min(LABELS - 1)) as u8)
    }

    fn bit(self) -> u64 {
        1 << self.0
    }
}

/// What is known of one cluster's domain.
#[derive(Debug, Default)]
pub struct Pruning {
    /// A name that was denied exists.
    is_off: AtomicBool,
    /// The forms of which a name has been asked for.
    checked: AtomicU64,
    denied: AtomicU32,
}

impl Pruning {
    /// Whether the rule holds, as far as is known.
    #[inline]
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// A name of this form is denied: whether to ask for it as well.
    pub fn is_sample(&self, form: Form) -> bool {
        let is_first = self.checked.load(Ordering::Relaxed) & form.bit() == 0
            && self.checked.fetch_or(form.bit(), Ordering::Relaxed) & form.bit() == 0;
        let is_drawn = self.denied.fetch_add(1, Ordering::Relaxed) % SAMPLE == SAMPLE - 1;
        is_first || is_drawn
    }

    /// Nothing came of asking for a name of this form: the next one is asked for.
    pub fn came_to_nothing(&self, form: Form) {
        self.checked.fetch_and(!form.bit(), Ordering::Relaxed);
    }

    /// A name that was denied exists. Returns whether that is news.
    pub fn give_up(&self) -> bool {
        !self.is_off.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_form_and_one_in_a_hundred() {
        let pruning = Pruning::default();
        let [svc, pod, other] = [Below::Svc, Below::Pod, Below::Domain].map(|below| Form::new(below, 5));
        assert!([svc, pod, other].iter().all(|form| pruning.is_sample(*form)));
        assert!(pruning.is_sample(Form::new(Below::Svc, 6)));
        let drawn = (0..1_000).filter(|_| pruning.is_sample(svc)).count();
        assert_eq!(drawn, 10);
        pruning.came_to_nothing(pod);
        assert!(pruning.is_sample(pod) && !pruning.is_sample(pod));
    }

    #[test]
    fn forms_are_told_apart_and_bounded() {
        let all: Vec<_> = [Below::Svc, Below::Pod, Below::Domain]
            .iter()
            .flat_map(|below| (0..300).map(|n| Form::new(*below, n)))
            .collect();
        let bits = all.iter().fold(0u64, |bits, form| bits | form.bit());
        assert_eq!(bits.count_ones(), 3 * LABELS as u32);
    }

    #[test]
    fn it_is_given_up_once() {
        let pruning = Pruning::default();
        assert!(!pruning.is_off() && pruning.give_up());
        assert!(pruning.is_off() && !pruning.give_up());
    }
}
