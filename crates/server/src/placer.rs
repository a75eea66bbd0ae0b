//! Bytes that have arrived, and their way to where the store wants them.

use impasto_region::{Checksum, Extent, Frames, Span};
use impasto_store::Sink;

/// Bytes of a flow, wherever they are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrived<'a> {
    /// Where they landed.
    Landed(Extent),
    /// In memory of the flow, because it could not go on when they came.
    Copied(&'a [u8]),
}

impl<'a> Arrived<'a> {
    pub(crate) const NONE: Self = Self::Copied(&[]);

    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Landed(extent) => extent.len as usize,
            Self::Copied(bytes) => bytes.len(),
        }
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes.
    pub(crate) fn bytes<'b>(self, frames: &'b Frames) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Self::Landed(extent) => frames.bytes(extent.span()),
            Self::Copied(bytes) => bytes,
        }
    }

    /// Takes the first `len` bytes, or all there are.
    pub(crate) fn take(&mut self, len: usize) -> Self {
        match self {
            Self::Landed(extent) => {
                let part = extent.part(0, u32::try_from(len).unwrap_or(u32::MAX));
                *extent = extent.part(part.len, u32::MAX);
                Self::Landed(part)
            }
            Self::Copied(bytes) => {
                let (part, rest) = bytes.split_at(len.min(bytes.len()));
                *bytes = rest;
                Self::Copied(part)
            }
        }
    }

    /// Copies the bytes to offset `at` of the frames.
    pub(crate) fn place(self, frames: &mut Frames, at: u64) {
        match self {
            Self::Landed(extent) => frames.copy(extent.span(), at),
            Self::Copied(bytes) => frames.store(at, bytes),
        }
    }
}

/// Puts record bytes into the frames; knows where the value of the present request is.
pub(crate) struct Placer<'a> {
    frames: &'a mut Frames,
    value: Arrived<'a>,
}

impl<'a> Placer<'a> {
    pub(crate) const fn new(frames: &'a mut Frames, value: Arrived<'a>) -> Self {
        Self { frames, value }
    }
}

impl Sink for Placer<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.frames.store(at, bytes);
    }

    fn put_value(&mut self, at: u64) {
        if !self.value.is_empty() {
            self.value.place(self.frames, at);
        }
    }

    fn sum(&self, span: Span, sum: &mut Checksum) {
        sum.update(self.frames.bytes(span));
    }
}
