//! The plain [`Sink`]: frames, and a value in memory.

use impasto_region::{Checksum, Frames, Span};

use crate::Sink;

/// Puts record bytes into frames, and `value` where an inline value goes.
#[derive(Debug)]
pub struct FramesSink<'a> {
    frames: &'a mut Frames,
    value: &'a [u8],
}

impl<'a> FramesSink<'a> {
    /// Returns the sink of a request with the inline value `value`; empty if it has none.
    pub const fn new(frames: &'a mut Frames, value: &'a [u8]) -> Self {
        Self { frames, value }
    }
}

impl Sink for FramesSink<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.frames.store(at, bytes);
    }

    fn put_value(&mut self, at: u64) {
        self.frames.store(at, self.value);
    }

    fn sum(&self, span: Span, sum: &mut Checksum) {
        sum.update(self.frames.bytes(span));
    }
}
