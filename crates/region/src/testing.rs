//! What the tests of this crate share: random numbers from a seed.

/// A generator of random numbers (SplitMix64) that can be started again.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Takes the seed from `IMPASTO_SEED`, else from the system, and prints it.
    pub(crate) fn from_env(test: &str) -> Self {
        let seed = match std::env::var("IMPASTO_SEED") {
            Ok(seed) => seed.parse().expect("IMPASTO_SEED is a number"),
            Err(_) => uuid::Uuid::new_v4().as_u64_pair().0,
        };
        eprintln!("{test}: IMPASTO_SEED={seed}");
        Self(seed)
    }

    /// Returns another generator, for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn below_u32(&mut self, end: u32) -> u32 {
        u32::try_from(self.below(u64::from(end))).expect("below a u32")
    }

    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a usize")
    }
}
