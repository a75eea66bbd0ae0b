//! What goes wrong on a medium.

use std::{io, sync::Arc};

use impasto_region::Span;

/// What the `io::Error` of an [`Event`](crate::Event) holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediumError {
    /// A write or a sync has failed: what is on the medium is not known any more (D7).
    #[error("the medium has failed and is not believed until a restart: {first}")]
    Failed {
        /// The first failure; all later ones repeat it.
        first: Arc<io::Error>,
    },
    /// Some blocks of a read could not be read.
    #[error("unreadable blocks: {blocks}, the first at {at:#x}: {first}")]
    Unreadable {
        /// How many.
        blocks: u64,
        /// Offset of the first that failed.
        at: u64,
        /// Why that one failed.
        first: io::Error,
    },
    /// The device wrote less than it was given.
    #[error("short write: {done} of {} bytes at {:#x}", .span.len, .span.at)]
    ShortWrite {
        /// What was to be written.
        span: Span,
        /// How many bytes were.
        done: u32,
    },
    /// The device read less than it was asked for.
    #[error("short read: {done} of {} bytes at {:#x}", .span.len, .span.at)]
    ShortRead {
        /// What was to be read.
        span: Span,
        /// How many bytes were.
        done: u32,
    },
}

impl MediumError {
    pub(crate) fn failed(first: &Arc<io::Error>) -> io::Error {
        Self::Failed { first: Arc::clone(first) }.into()
    }
}

impl From<MediumError> for io::Error {
    fn from(error: MediumError) -> Self {
        let kind = match &error {
            MediumError::Failed { first } => first.kind(),
            MediumError::Unreadable { first, .. } => first.kind(),
            MediumError::ShortWrite { .. } => io::ErrorKind::WriteZero,
            MediumError::ShortRead { .. } => io::ErrorKind::UnexpectedEof,
        };
        Self::new(kind, error)
    }
}
