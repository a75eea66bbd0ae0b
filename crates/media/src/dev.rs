//! `Dev` on io_uring.

use std::{fs::File, io};

use impasto_region::{Frames, Span};
use impasto_uring::{Completion, Fd, Handed, Owner, Token, Uring};

use crate::{Dev, DevToken, Durability, MediumError};

/// A file or block device, open with `O_DIRECT`, whose offsets are those of the frames.
///
/// It takes the completions of [`Owner::Dev`]: there is one of it on a ring. It may be on several
/// rings: its tokens are unique over all of them.
#[derive(Debug)]
pub struct UringDev {
    file: Fd,
    /// The next one.
    token: u64,
    /// Writes in flight: a short one is known by its span.
    writes: Vec<(DevToken, Span)>,
}

impl UringDev {
    /// Returns the device on `file`.
    ///
    /// Without `O_DIRECT` it is as durable, and slower: bytes are copied to the page cache first.
    pub fn new(file: File) -> Self {
        Self { file: file.into(), token: 0, writes: Vec::new() }
    }

    fn next_token(&mut self) -> (DevToken, Token) {
        let value = self.token;
        self.token += 1;
        (DevToken(value), Token { owner: Owner::Dev, value })
    }
}

impl Dev<Uring> for UringDev {
    fn write(&mut self, io: &mut Uring, frames: &Frames, span: Span, how: Durability) -> DevToken {
        let (token, ring_token) = self.next_token();
        io.write(ring_token, &self.file, frames, span, how == Durability::Dsync);
        self.writes.push((token, span));
        token
    }

    fn sync(&mut self, io: &mut Uring) -> DevToken {
        let (token, ring_token) = self.next_token();
        io.fsync_data(ring_token, &self.file);
        token
    }

    fn read(&mut self, io: &mut Uring, frames: &mut Frames, span: Span) -> DevToken {
        let (token, ring_token) = self.next_token();
        let loan = frames.loan_span(span);
        io.read(ring_token, &self.file, frames, loan);
        token
    }

    fn poll(&mut self, io: &mut Uring, frames: &mut Frames) -> Option<(DevToken, io::Result<()>)> {
        let Completion { token, result, handed, .. } = io.completion(Owner::Dev)?;
        let token = DevToken(token.value);
        let result = if let Handed::Filled(filled) = handed {
            let span = frames.settle_span(filled);
            whole(result, span, |done| MediumError::ShortRead { span, done })
        } else if let Some(index) = self.writes.iter().position(|(write, _)| *write == token) {
            let (_, span) = self.writes.swap_remove(index);
            whole(result, span, |done| MediumError::ShortWrite { span, done })
        } else {
            result.map(|_zero| ())
        };
        Some((token, result))
    }
}

/// Turns a number of bytes that is not all of `span` into an error.
///
/// It is not resumed: a regular file or a disk ends early only if it is full, cut off or broken.
fn whole(
    result: io::Result<u32>,
    span: Span,
    short: impl FnOnce(u32) -> MediumError,
) -> io::Result<()> {
    let done = result?;
    if u64::from(done) == span.len { Ok(()) } else { Err(short(done).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full device may take a part of a commit and report no error: taken for written, the commit
    /// would be acknowledged and torn.
    #[test]
    fn a_short_write_is_an_error_that_tells_both_lengths() {
        let span = Span::new(8192, 12288);
        let short = |done| MediumError::ShortWrite { span, done };
        whole(Ok(12288), span, short).unwrap();
        let error = whole(Ok(4096), span, short).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        assert_eq!(error.to_string(), "short write: 4096 of 12288 bytes at 0x2000");
    }
}
