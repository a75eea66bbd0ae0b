//! Numbers from a seed.

/// A generator of numbers: the same seed gives the same numbers on every machine.
///
/// This is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Returns the generator of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, which is not 0. Slightly more often a small one: that does not
    /// matter here.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns an index of a sequence of `len` things, which is not empty.
    pub fn index(&mut self, len: usize) -> usize {
        let index = self.below(len as u64);
        usize::try_from(index).expect("it is below a usize")
    }

    /// Returns true once in `times`, on average.
    pub const fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Returns how likely, in sixteenths, an atom of what `key` names survives the crash of `seed`.
///
/// Each thing has a likelihood of its own, often none or certainty: were it the same for all atoms,
/// a crash would tear every commit and every payload, and never keep the one and lose the other.
pub(crate) fn survival(seed: u64, key: u64) -> u64 {
    let mut rng = Rng::new(seed ^ key.wrapping_mul(0x9fb2_1c65_1e98_df25));
    [0, 0, 2, 8, 14, 16, 16][rng.index(7)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failing seed has to fail tomorrow, too.
    #[test]
    fn numbers_are_those_of_the_reference() {
        let mut rng = Rng::new(1_234_567);
        assert_eq!(rng.next(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn indexes_are_inside_and_reach_every_place() {
        let mut rng = Rng::new(1);
        let mut seen = [0; 7];
        for _ in 0..700 {
            seen[rng.index(7)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }
}
