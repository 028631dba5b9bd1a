//! Checks that a cluster's server has no names of the forms that are denied without a query. CoreDNS with `hosts`, `rewrite`,
//! `template` or `fallthrough` may have some; then the denials are wrong, and are disabled.
//!
//! The first denied name of each form is queried nevertheless, in the background, and then one in [`SAMPLE`] of the denied
//! names. If one exists, denials by form are disabled for the route until nodens restarts or the route changes.
//!
//! Pure.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Denied names for each one that is queried, in addition to the first of each form.
pub(crate) const SAMPLE: u32 = 100;
/// Label counts that are distinguished; longer names count as one form.
const LABELS: usize = 16;

/// Form of a name below a cluster's domain, as far as the rules distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameForm(u8);

/// Part of the cluster's domain that a name is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    Svc,
    Pod,
    Domain,
}

impl NameForm {
    /// Returns the form of a name with `labels` labels before the cluster's domain.
    pub fn new(below: Below, labels: usize) -> Self {
        Self((below as usize * LABELS + labels.min(LABELS - 1)) as u8)
    }

    fn bit(self) -> u64 {
        1 << self.0
    }
}

/// State of the checks of one cluster's domain.
#[derive(Debug, Default)]
pub struct Pruning {
    /// True if a denied name was found to exist.
    is_off: AtomicBool,
    /// Forms of which a name has been queried.
    checked: AtomicU64,
    denied: AtomicU32,
}

impl Pruning {
    /// Returns whether denials by form are disabled.
    #[inline]
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Counts a denied name of this form. Returns whether it is to be queried as well.
    pub fn is_sample(&self, form: NameForm) -> bool {
        let is_first = self.checked.load(Ordering::Relaxed) & form.bit() == 0
            && self.checked.fetch_or(form.bit(), Ordering::Relaxed) & form.bit() == 0;
        let is_drawn = self.denied.fetch_add(1, Ordering::Relaxed) % SAMPLE == SAMPLE - 1;
        is_first || is_drawn
    }

    /// Records that the check of a name of this form had no result: the next name is checked.
    pub fn came_to_nothing(&self, form: NameForm) {
        self.checked.fetch_and(!form.bit(), Ordering::Relaxed);
    }

    /// Disables denials by form, since a denied name exists. Returns whether they were enabled.
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
        let [svc, pod, other] = [Below::Svc, Below::Pod, Below::Domain].map(|below| NameForm::new(below, 5));
        assert!([svc, pod, other].iter().all(|form| pruning.is_sample(*form)));
        assert!(pruning.is_sample(NameForm::new(Below::Svc, 6)));
        let drawn = (0..1_000).filter(|_| pruning.is_sample(svc)).count();
        assert_eq!(drawn, 10);
        pruning.came_to_nothing(pod);
        assert!(pruning.is_sample(pod) && !pruning.is_sample(pod));
    }

    #[test]
    fn forms_are_told_apart_and_bounded() {
        let all: Vec<_> = [Below::Svc, Below::Pod, Below::Domain]
            .iter()
            .flat_map(|below| (0..300).map(|n| NameForm::new(*below, n)))
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
