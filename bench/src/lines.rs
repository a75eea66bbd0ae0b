//! Cache lines for measurements: slower ones, and such that nobody writes back.

use std::{
    hint,
    time::{Duration, Instant},
};

use impasto::{
    media::Lines,
    region::{Frames, Span},
};

/// Lines whose fences take longer, as those of slower memory would: by spinning, as in PASTE's
/// evaluation (Honda et al., NSDI'18).
#[derive(Debug)]
pub(crate) struct Delayed<L> {
    lines: L,
    delay: Duration,
}

impl<L> Delayed<L> {
    pub(crate) const fn new(lines: L, delay: Duration) -> Self {
        Self { lines, delay }
    }
}

impl<L: Lines> Lines for Delayed<L> {
    fn flush(&mut self, frames: &Frames, span: Span) {
        self.lines.flush(frames, span);
    }

    fn fence(&mut self, frames: &Frames) {
        self.lines.fence(frames);
        if !self.delay.is_zero() {
            let start = Instant::now();
            while start.elapsed() < self.delay {
                hint::spin_loop();
            }
        }
    }
}

/// Cache lines that nobody writes back.
#[derive(Debug)]
pub(crate) struct NoLines;

impl Lines for NoLines {
    fn flush(&mut self, _frames: &Frames, _span: Span) {}

    fn fence(&mut self, _frames: &Frames) {}
}
