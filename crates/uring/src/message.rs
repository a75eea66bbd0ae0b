//! What a send sends: pieces of owned bytes and of frames, as the kernel wants to see them.

use std::{mem, ptr};

use impasto_region::{Frames, Span};
use io_uring::{
    opcode,
    squeue::{self, Entry},
    types,
};
use rustix::net::{RecvFlags, SendFlags};

/// A piece of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// `len` bytes from `at` of the bytes that the send owns.
    Bytes {
        /// Index of the first byte.
        at: u32,
        /// Number of bytes.
        len: u32,
    },
    /// Bytes of frames. They do not change until the send has completed.
    Stored(Span),
}

/// A send in flight. Boxed, because the kernel is given addresses in it.
///
/// It owns bytes, and names bytes of frames: whoever sends keeps the frames mapped.
#[derive(Debug)]
pub struct Message {
    header: Header,
    iovecs: Vec<Iovec>,
    /// The first of `iovecs` that is not wholly sent.
    first: usize,
    bytes: Vec<u8>,
    sent: u64,
    left: u64,
    /// The entry in flight reports only what it could not do at once.
    is_quiet: bool,
}

/// `struct iovec`: bytes of a [`Message`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Iovec {
    /// Where they are.
    pub base: *const u8,
    /// How many.
    pub len: usize,
}

/// `struct user_msghdr`.
#[repr(C)]
#[derive(Debug)]
struct Header {
    name: *const u8,
    name_len: i32,
    iovecs: *const Iovec,
    iovecs_len: usize,
    control: *const u8,
    control_len: usize,
    flags: u32,
}

/// The kernel takes so many iovecs at once (`UIO_MAXIOV`).
const IOVECS_MAX: usize = 1024;
/// Longer messages seldom fit into a socket's buffer at once.
const QUIET_BYTES_MAX: u64 = 16 << 10;

impl Message {
    /// Returns one that is empty.
    pub fn new() -> Box<Self> {
        let header = Header {
            name: ptr::null(),
            name_len: 0,
            iovecs: ptr::null(),
            iovecs_len: 0,
            control: ptr::null(),
            control_len: 0,
            flags: 0,
        };
        let (iovecs, bytes) = (Vec::new(), Vec::new());
        Box::new(Self { header, iovecs, first: 0, bytes, sent: 0, left: 0, is_quiet: false })
    }

    /// Takes what to send.
    ///
    /// # Panics
    /// If a piece lies outside of `bytes` or of the frames, or its bytes may still be written.
    pub fn fill(
        &mut self,
        frames: &Frames,
        bytes: Vec<u8>,
        pieces: impl IntoIterator<Item = Piece>,
    ) {
        self.iovecs.clear();
        (self.bytes, self.first, self.sent, self.left) = (bytes, 0, 0, 0);
        for piece in pieces {
            let slice = match piece {
                Piece::Bytes { at, len } => &self.bytes[at as usize..][..len as usize],
                Piece::Stored(span) => frames.bytes(span),
            };
            if !slice.is_empty() {
                self.iovecs.push(Iovec { base: slice.as_ptr(), len: slice.len() });
                self.left += slice.len() as u64;
            }
        }
    }

    /// Returns what is left to be sent, as much as one system call takes.
    pub fn rest(&self) -> &[Iovec] {
        let rest = &self.iovecs[self.first..];
        &rest[..rest.len().min(IOVECS_MAX)]
    }

    /// Returns the operation that sends what is left.
    pub(crate) fn entry(&mut self, fd: types::Fd) -> Entry {
        self.entry_with(fd, SendFlags::NOSIGNAL)
    }

    /// As [`entry`](Self::entry), for a short message: one that does not wait, and completes only
    /// if it did not send everything.
    pub(crate) fn quiet_entry(&mut self, fd: types::Fd) -> Entry {
        self.is_quiet = (1..=QUIET_BYTES_MAX).contains(&self.left);
        if self.is_quiet {
            let entry = self.entry_with(fd, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            entry.flags(squeue::Flags::SKIP_SUCCESS)
        } else {
            self.entry(fd)
        }
    }

    fn entry_with(&mut self, fd: types::Fd, flags: SendFlags) -> Entry {
        // The kernel itself goes on after a short send, and takes one for a failure.
        let flags = flags.bits() | RecvFlags::WAITALL.bits();
        match self.rest() {
            [] => opcode::Nop::new().build(),
            [Iovec { base, len }] => {
                let len = u32::try_from(*len).unwrap_or(u32::MAX);
                opcode::Send::new(fd, *base, len).flags(flags.cast_signed()).build()
            }
            rest => {
                let (iovecs, iovecs_len) = (rest.as_ptr(), rest.len());
                (self.header.iovecs, self.header.iovecs_len) = (iovecs, iovecs_len);
                let header = ptr::from_ref(&self.header);
                opcode::SendMsg::new(fd, header.cast()).flags(flags).build()
            }
        }
    }

    /// Returns true if the entry in flight was quiet; the next one is not.
    pub(crate) const fn end_quiet(&mut self) -> bool {
        mem::replace(&mut self.is_quiet, false)
    }

    /// Returns true if the entry in flight is quiet.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Notes that the kernel took all of a quiet entry; returns the number of bytes sent.
    pub(crate) fn advance_all(&mut self) -> u32 {
        self.is_quiet = false;
        (self.sent, self.left, self.first) = (self.sent + self.left, 0, self.iovecs.len());
        self.sent()
    }

    /// Notes that the kernel took `count` bytes more; returns true if something is left.
    ///
    /// # Panics
    /// If so many were not left.
    pub fn advance(&mut self, count: u32) -> bool {
        let mut count = count as usize;
        self.sent += count as u64;
        self.left = self.left.checked_sub(count as u64).expect("a send takes what it was given");
        while let Some(iovec) = self.iovecs.get_mut(self.first) {
            if count < iovec.len {
                iovec.base = iovec.base.wrapping_add(count);
                iovec.len -= count;
                break;
            }
            count -= iovec.len;
            self.first += 1;
        }
        self.left > 0
    }

    /// Returns the number of bytes sent.
    pub fn sent(&self) -> u32 {
        u32::try_from(self.sent).unwrap_or(u32::MAX)
    }

    /// Gives the bytes back.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use impasto_region::layout::Geometry;

    use super::*;

    /// Without exact accounting the rest after a short send would repeat or lose bytes.
    #[test]
    fn advancing_by_any_count_keeps_the_rest_exact() {
        let frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 1).unwrap();
        for step in 1..=8_u32 {
            let pieces = [(0, 3), (3, 0), (3, 1), (4, 4)].map(|(at, len)| Piece::Bytes { at, len });
            let mut message = Message::new();
            let bytes: Vec<u8> = (0..8).collect();
            let start = bytes.as_ptr().addr();
            message.fill(&frames, bytes, pieces);
            for sent in (step..8).step_by(step as usize).chain([8]) {
                let now = sent - u32::try_from(message.sent).unwrap();
                assert_eq!(message.advance(now), sent < 8);
                let mut at = start + sent as usize;
                for piece in &message.iovecs[message.first..] {
                    assert_eq!(piece.base.addr(), at);
                    at += piece.len;
                }
                assert_eq!(at, start + 8);
            }
            assert_eq!(message.sent(), 8);
            assert_eq!(message.take_bytes().len(), 8);
        }
    }
}
