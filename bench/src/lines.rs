//! Cache lines for measurements: slower ones, and such that nobody writes back.

use std::{
    hint,
    time::{Duration, Instant},
};

use impasto::{
    media::{CpuLines, Lines},
    region::{Frames, Span},
};

use crate::stages::{self, Stage};

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
    #[inline]
    fn flush(&mut self, frames: &Frames, span: Span) {
        self.lines.flush(frames, span);
    }

    #[inline]
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

/// The lines of an Impasto that is measured: with or without what makes them durable. What they
/// take is charged to this thread.
#[derive(Debug)]
pub(crate) struct Charged(pub(crate) Option<Delayed<CpuLines>>);

impl Lines for Charged {
    fn flush(&mut self, frames: &Frames, span: Span) {
        if let Some(lines) = &mut self.0 {
            // What came before has made the record.
            stages::charge(Stage::Copy);
            lines.flush(frames, span);
            stages::charge(Stage::Flush);
        }
    }

    fn fence(&mut self, frames: &Frames) {
        if let Some(lines) = &mut self.0 {
            lines.fence(frames);
            stages::charge(Stage::Fence);
        }
    }
}
