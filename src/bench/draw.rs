//! Order of questions: Zipf's law, or sequential.
//!
//! Popularity of DNS names follows Zipf's law: the second name is asked half as often as the first, the third a third as
//! often. Walker's alias method draws from such a distribution in constant time:
//!
//! 1. Scale the weights to a mean of 1, and give each question a column of height 1.
//! 2. A question with a weight below 1 leaves room in its column; the excess of a question with a weight above 1 fills it.
//!    Each column then holds at most two questions: its own up to a mark, another above the mark.
//! 3. To draw, pick a column and a height at random: below the mark the result is the column's own question, above it the
//!    other question.
//!
//! The same seed gives the same sequence on every machine.
//! The same seed gives the same sequence, on every machine.

/// Sequence of question numbers; 0 is the most popular question.
#[derive(Clone, Debug)]
pub struct Draw {
    random: Random,
    order: Order,
}

#[derive(Clone, Debug)]
enum Order {
    InTurn { next: u32, count: u32 },
    Zipf { columns: std::sync::Arc<[Column]> },
}

/// One column: its own question below the mark, the other question above. The mark is in units of 2^-32.
#[derive(Clone, Copy, Debug)]
struct Column {
    mark: u64,
    other: u32,
}

impl Draw {
    /// Returns a sequence by Zipf's law with exponent 1. `count` must be at least 1.
    pub fn zipf(count: usize, seed: u64) -> Self {
        Self { random: Random::new(seed), order: Order::Zipf { columns: columns(count).into() } }
    }

    /// Returns a sequence of all questions in order, repeated without end.
    pub fn in_turn(count: usize) -> Self {
        Self { random: Random::new(0), order: Order::InTurn { next: 0, count: count.max(1) as u32 } }
    }

    /// Returns the next question.
    #[inline]
    pub fn question(&mut self) -> u32 {
        match &mut self.order {
            Order::InTurn { next, count } => {
                let at = *next;
                *next = (at + 1) % *count;
                at
            }
            Order::Zipf { columns } => {
                let bits = self.random.bits();
                let at = (((bits >> 32) * columns.len() as u64) >> 32) as u32;
                let height = bits & 0xffff_ffff;
                columns.get(at as usize).map_or(0, |column| if height < column.mark { at } else { column.other })
            }
        }
    }
}

/// Deterministic random numbers: SplitMix64, see Steele, Lea and Flood, "Fast splittable pseudorandom number generators"
/// (2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Shuffles `items`; each order is equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, (self.bits() % (end as u64 + 1)) as usize);
        }
    }
}

fn columns(count: usize) -> Vec<Column> {
    let total: f64 = (1..=count).map(|rank| 1.0 / rank as f64).sum();
    let mut weights: Vec<f64> = (1..=count).map(|rank| count as f64 / (rank as f64 * total)).collect();
    let mut columns: Vec<Column> = (0..count).map(|at| Column { mark: 1 << 32, other: at as u32 }).collect();
    let (mut light, mut heavy): (Vec<usize>, Vec<usize>) = (0..count).partition(|at| weights[*at] < 1.0);
    while let (Some(small), Some(&large)) = (light.pop(), heavy.last()) {
        columns[small] = Column { mark: (weights[small] * 4_294_967_296.0) as u64, other: large as u32 };
        weights[large] -= 1.0 - weights[small];
        if weights[large] < 1.0 {
            heavy.pop();
            light.push(large);
        }
    }
    // The remaining weights differ from 1 only by rounding; their columns stay full.
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let drawn = |seed| {
            let mut draw = Draw::zipf(1000, seed);
            (0..8).map(|_| draw.question()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        // The sequence is the same on every machine: a change would make results incomparable between versions.
        assert_eq!(Random::new(0).bits(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn the_nth_is_drawn_an_nth_as_often() {
        const DRAWS: u32 = 1_000_000;
        for count in [1, 2, 100] {
            let mut draw = Draw::zipf(count, 7);
            let mut seen = vec![0u32; count];
            (0..DRAWS).for_each(|_| seen[draw.question() as usize] += 1);
            let total: f64 = (1..=count).map(|rank| 1.0 / rank as f64).sum();
            for (at, seen) in seen.iter().enumerate() {
                let expected = f64::from(DRAWS) / ((at + 1) as f64 * total);
                assert!((f64::from(*seen) - expected).abs() < 6.0 * expected.sqrt() + 1.0, "{at} of {count}: {seen}");
            }
        }
    }

    #[test]
    fn in_turn_comes_round() {
        let mut draw = Draw::in_turn(3);
        assert_eq!((0..7).map(|_| draw.question()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0]);
    }
}
