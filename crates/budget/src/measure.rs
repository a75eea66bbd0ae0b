//! How long something takes: many short repetitions, and where their middle is.

use std::time::Instant;

use serde::Serialize;

/// What one operation takes, or how much one second brings: where the middle of many repetitions
/// is, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Half of the repetitions are below.
    pub median: f64,
    /// A quarter of them is below.
    pub low: f64,
    /// A quarter of them is above.
    pub high: f64,
    /// The least of them.
    pub min: f64,
}

impl Figure {
    /// Returns where `samples` lie.
    ///
    /// # Panics
    /// If there are none.
    pub fn of(mut samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "something was measured");
        samples.sort_by(f64::total_cmp);
        let quarter = |quarters: usize| samples[(samples.len() - 1) * quarters / 4];
        Self { median: quarter(2), low: quarter(1), high: quarter(3), min: samples[0] }
    }

    /// Returns the figure in another unit. What falls as the other rises is turned around.
    #[must_use]
    pub fn map(self, convert: impl Fn(f64) -> f64) -> Self {
        let [low, median, high, min] = [self.low, self.median, self.high, self.min].map(convert);
        Self { median, low: low.min(high), high: low.max(high), min }
    }
}

/// A clock that knows what it takes to read it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    overhead_ns: f64,
}

impl Clock {
    /// Reads the clock until it is known what that takes.
    pub fn calibrate() -> Self {
        let pairs = (0..10_000).map(|_| {
            let start = Instant::now();
            start.elapsed().as_nanos() as f64
        });
        Self { overhead_ns: Figure::of(pairs.collect()).median }
    }

    /// Returns the nanoseconds that `run` takes, without those of reading the clock.
    pub fn time(self, run: impl FnOnce()) -> f64 {
        let start = Instant::now();
        run();
        (start.elapsed().as_nanos() as f64 - self.overhead_ns).max(0.0)
    }

    /// Runs `run` so many times and once before, and returns what one of its `operations` takes.
    pub fn each(self, times: usize, operations: usize, mut run: impl FnMut()) -> Figure {
        run();
        let samples = (0..times).map(|_| self.time(&mut run) / operations as f64);
        Figure::of(samples.collect())
    }

    /// As [`each`](Self::each); before each run `prepare` is called, which is not counted.
    pub fn each_prepared<T>(
        self,
        times: usize,
        operations: usize,
        mut prepare: impl FnMut() -> T,
        mut run: impl FnMut(T),
    ) -> Figure {
        run(prepare());
        let samples = (0..times).map(|_| {
            let prepared = prepare();
            self.time(|| run(prepared)) / operations as f64
        });
        Figure::of(samples.collect())
    }
}

/// Returns the numbers below `count` in an order that looks random: each as likely in each place
/// (Fisher and Yates; the numbers are Steele, Lea and Flood's SplitMix64).
pub(crate) fn shuffled(count: usize) -> Vec<usize> {
    let mut state = 0_u64;
    let mut number = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let other = usize::try_from(number() % (last as u64 + 1)).expect("below a usize");
        order.swap(last, other);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_lie_between_the_least_and_the_most() {
        let figure = Figure::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(figure, Figure { median: 3.0, low: 2.0, high: 4.0, min: 1.0 });
        assert_eq!(Figure::of(vec![7.0]).low, 7.0);
    }

    /// A rate is the inverse of a time: its quarters change their places.
    #[test]
    fn a_figure_in_another_unit_keeps_its_order() {
        let figure = Figure { median: 2.0, low: 1.0, high: 4.0, min: 0.5 }.map(f64::recip);
        assert_eq!((figure.low, figure.median, figure.high), (0.25, 0.5, 1.0));
    }

    /// A walk that leaves out lines is one over fewer of them.
    #[test]
    fn a_shuffled_order_has_every_number_once() {
        let mut order = shuffled(1000);
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
        assert!(shuffled(0).is_empty());
    }

    /// A run that is shorter than reading the clock must not come out negative.
    #[test]
    fn nothing_takes_less_than_no_time() {
        let clock = Clock::calibrate();
        let figure = clock.each(100, 1, || {});
        assert!(figure.min >= 0.0 && figure.high.is_finite());
    }
}
