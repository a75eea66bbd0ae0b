//! `Dev` on a file, by io_uring or by threads.

use std::{fs::File, io};

use impasto_epoll::Epoll;
use impasto_region::{Frames, Span, SpanLoan};
use impasto_uring::{Completion, Fd, Handed, Owner, Token, Uring};

use crate::{Dev, DevToken, Durability, MediumError};

/// A file or block device, open with `O_DIRECT`, whose offsets are those of the frames.
///
/// It takes the completions of [`Owner::Dev`]: there is one of it on an io_uring or [`Epoll`]. It
/// may be on several: its tokens are unique over all of them.
#[derive(Debug)]
pub struct FileDev {
    file: Fd,
    /// The next one.
    token: u64,
    /// Writes in flight: a short one is known by its span.
    writes: Vec<(DevToken, Span)>,
}

impl FileDev {
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

impl<I: Files> Dev<I> for FileDev {
    fn write(&mut self, io: &mut I, frames: &Frames, span: Span, how: Durability) -> DevToken {
        let (token, io_token) = self.next_token();
        io.write(io_token, &self.file, frames, span, how == Durability::Dsync);
        self.writes.push((token, span));
        token
    }

    fn sync(&mut self, io: &mut I) -> DevToken {
        let (token, io_token) = self.next_token();
        io.sync(io_token, &self.file);
        token
    }

    fn read(&mut self, io: &mut I, frames: &mut Frames, span: Span) -> DevToken {
        let (token, io_token) = self.next_token();
        let loan = frames.loan_span(span);
        io.read(io_token, &self.file, frames, loan);
        token
    }

    fn poll(&mut self, io: &mut I, frames: &mut Frames) -> Option<(DevToken, io::Result<()>)> {
        let Ended { token, result, loan } = io.ended()?;
        let token = DevToken(token.value);
        let result = if let Some(loan) = loan {
            let span = frames.settle_span(loan);
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

/// What a [`FileDev`] starts its operations on; they are named after those of [`Uring`].
pub trait Files {
    /// Writes `span` to the same offset of `file`, durably or not.
    fn write(&mut self, token: Token, file: &Fd, frames: &Frames, span: Span, dsync: bool);
    /// Reads the span of `loan` from the same offset of `file`.
    fn read(&mut self, token: Token, file: &Fd, frames: &Frames, loan: SpanLoan);
    /// Makes all writes durable that have completed.
    fn sync(&mut self, token: Token, file: &Fd);
    /// Returns an operation that has ended.
    fn ended(&mut self) -> Option<Ended>;
}

/// The end of an operation on a file.
#[derive(Debug)]
pub struct Ended {
    token: Token,
    result: io::Result<u32>,
    /// Of a read.
    loan: Option<SpanLoan>,
}

impl<L> From<Completion<L>> for Ended {
    fn from(Completion { token, result, handed, .. }: Completion<L>) -> Self {
        let loan = if let Handed::Filled(loan) = handed { Some(loan) } else { None };
        Self { token, result, loan }
    }
}

impl Files for Uring {
    fn write(&mut self, token: Token, file: &Fd, frames: &Frames, span: Span, dsync: bool) {
        Self::write(self, token, file, frames, span, dsync);
    }

    fn read(&mut self, token: Token, file: &Fd, frames: &Frames, loan: SpanLoan) {
        Self::read(self, token, file, frames, loan);
    }

    fn sync(&mut self, token: Token, file: &Fd) {
        self.fsync_data(token, file);
    }

    fn ended(&mut self) -> Option<Ended> {
        self.completion(Owner::Dev).map(Ended::from)
    }
}

impl Files for Epoll {
    fn write(&mut self, token: Token, file: &Fd, frames: &Frames, span: Span, dsync: bool) {
        Self::write(self, token, file, frames, span, dsync);
    }

    fn read(&mut self, token: Token, file: &Fd, _frames: &Frames, loan: SpanLoan) {
        Self::read(self, token, file, loan);
    }

    fn sync(&mut self, token: Token, file: &Fd) {
        self.fsync_data(token, file);
    }

    fn ended(&mut self) -> Option<Ended> {
        self.completion(Owner::Dev).map(Ended::from)
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
