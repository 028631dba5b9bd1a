//! Budget of hedges, which must not slow down a slow network further.

/// Budget of hedges: a twentieth of a hedge per query, and a burst for the first moments of a fault.
#[derive(Debug)]
pub struct HedgeBudget {
    twentieths: u32,
}

impl HedgeBudget {
    /// Hedges that may be sent at once after a quiet time.
    pub const BURST: u32 = 32;
    /// Queries that earn one hedge: 5 %.
    pub const QUERIES_PER_HEDGE: u32 = 20;

    /// Credits one query: hedges may be a fixed share of queries.
    pub fn credit(&mut self) {
        self.twentieths = (self.twentieths + 1).min(Self::BURST * Self::QUERIES_PER_HEDGE);
    }

    /// Takes a hedge from the budget; returns whether there was one.
    pub fn try_acquire(&mut self) -> bool {
        let left = self.twentieths.checked_sub(Self::QUERIES_PER_HEDGE);
        self.twentieths = left.unwrap_or(self.twentieths);
        left.is_some()
    }
}

impl Default for HedgeBudget {
    fn default() -> Self {
        Self { twentieths: Self::BURST * Self::QUERIES_PER_HEDGE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_burst_and_a_twentieth() {
        let mut budget = HedgeBudget::default();
        assert_eq!((0..100).filter(|_| budget.try_acquire()).count(), HedgeBudget::BURST as usize);
        (0..HedgeBudget::QUERIES_PER_HEDGE).for_each(|_| budget.credit());
        assert!(budget.try_acquire());
        assert!(!budget.try_acquire());
    }
}
