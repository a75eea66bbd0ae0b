//! Medians, quartiles, and a seeded order.

use serde_json::{Value, json};

/// Where the middle of some figures is, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the figures are below.
    pub median: f64,
    /// A quarter of them is below.
    pub low: f64,
    /// A quarter of them is above.
    pub high: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Returns the spread of `figures`, or `None` if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        // The quartile `quarters`, between the two figures that are next to it.
        let quartile = |quarters: usize| {
            let (below, part) = ((count - 1) * quarters / 4, (count - 1) * quarters % 4);
            let above = sorted[(below + 1).min(count - 1)];
            sorted[below] + (above - sorted[below]) * part as f64 / 4.0
        };
        (count > 0).then(|| Self {
            median: quartile(2),
            low: quartile(1),
            high: quartile(3),
            count,
        })
    }

    /// Returns it with `change` done to its figures, which keeps their order.
    pub(crate) fn map(self, change: impl Fn(f64) -> f64) -> Self {
        let Self { median, low, high, count } = self;
        Self { median: change(median), low: change(low), high: change(high), count }
    }

    /// Returns it for machines.
    pub(crate) fn json(spread: Option<Self>) -> Value {
        let Some(Self { median, low, high, count }) = spread else { return Value::Null };
        json!({ "median": median, "quartiles": [low, high], "rounds": count })
    }
}

/// Numbers that look random and come again with the same seed (Steele, Lea, Flood: SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the numbers of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns the numbers below `count` in a random order.
    pub fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let bound = last as u64 + 1;
            let other = usize::try_from(self.number() % bound).expect("below a usize");
            order.swap(last, other);
        }
        order
    }

    /// Returns `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_their_neighbours() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(spread(&[]), None);
        let of = |median, low, high, count| Some(Spread { median, low, high, count });
        assert_eq!(spread(&[3.0]), of(3.0, 3.0, 3.0, 1));
        assert_eq!(spread(&[4.0, 2.0]), of(3.0, 2.5, 3.5, 2));
        assert_eq!(spread(&[5.0, 1.0, 4.0, 2.0, 3.0]), of(3.0, 2.0, 4.0, 5));
        assert_eq!(spread(&[4.0, 3.0, 2.0, 1.0]), of(2.5, 1.75, 3.25, 4));
    }

    /// An order that favours a place gives the same variant the warmest cache in every round.
    #[test]
    fn every_place_is_as_likely() {
        let mut random = Random::new(7);
        let mut counts = [[0_u32; 3]; 3];
        for _ in 0..3000 {
            for (place, index) in random.order(3).into_iter().enumerate() {
                counts[place][index] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_eq!(Random::new(7).order(9), Random::new(7).order(9));
        assert_eq!(Random::new(1).bytes(13).len(), 13);
    }
}
