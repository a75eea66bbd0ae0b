//! What is to be written: small bytes of our own, and long ones that are shared and never copied.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice, Write},
    ops::Range,
    sync::Arc,
};

/// Bytes in the order in which they are to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Appended to by speakers.
    pub(crate) own: Vec<u8>,
    /// How much of `own` was written.
    at: usize,
    shared: VecDeque<Shared>,
}

/// Bytes that stand between those of `own`, before `own[before]`.
#[derive(Debug)]
struct Shared {
    before: usize,
    bytes: Arc<[u8]>,
    left: Range<usize>,
}

impl Outbox {
    /// Appends `bytes[range]`: by reference if it is long.
    pub(crate) fn push(&mut self, bytes: &Arc<[u8]>, range: Range<usize>) {
        if range.len() < SHARED_BYTES_MIN {
            self.own.extend_from_slice(&bytes[range]);
        } else {
            let before = self.own.len();
            self.shared.push_back(Shared { before, bytes: Arc::clone(bytes), left: range });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.own.len() && self.shared.is_empty()
    }

    /// Forgets what was not written.
    pub(crate) fn clear(&mut self) {
        self.own.clear();
        self.shared.clear();
        self.at = 0;
    }

    /// Writes what `sink` takes without blocking, and returns how many bytes that were.
    pub(crate) fn write(&mut self, sink: &mut impl Write) -> io::Result<u64> {
        let mut total = 0;
        while !self.is_empty() {
            match self.write_once(sink) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    total += written as u64;
                    self.advance(written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn write_once(&self, sink: &mut impl Write) -> io::Result<usize> {
        if self.shared.is_empty() {
            return sink.write(&self.own[self.at..]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut at = self.at;
        // Two slices for each that is shared; what has no room is written the next time.
        for shared in self.shared.iter().take(SLICES / 2) {
            slices[count] = IoSlice::new(&self.own[at..shared.before]);
            slices[count + 1] = IoSlice::new(&shared.bytes[shared.left.clone()]);
            count += 2;
            at = shared.before;
        }
        if self.shared.len() < SLICES / 2 {
            slices[count] = IoSlice::new(&self.own[at..]);
            count += 1;
        }
        sink.write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(shared) = self.shared.front_mut() {
            let own = (shared.before - self.at).min(written);
            self.at += own;
            written -= own;
            let part = shared.left.len().min(written);
            shared.left.start += part;
            written -= part;
            if self.at < shared.before || !shared.left.is_empty() {
                break;
            }
            self.shared.pop_front();
        }
        self.at += written;
        if self.is_empty() {
            self.clear();
        } else if self.at >= COMPACT_BYTES {
            self.own.drain(..self.at);
            self.shared.iter_mut().for_each(|shared| shared.before -= self.at);
            self.at = 0;
        }
    }
}

/// Shorter bytes are copied: one buffer to write is cheaper than two.
const SHARED_BYTES_MIN: usize = 16 << 10;
/// Of one write.
const SLICES: usize = 17;
/// So much that was written is not kept in front of what was not.
const COMPACT_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, as a full socket does.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let before = self.0.len();
            for slice in slices {
                let room = self.1 - (self.0.len() - before);
                self.0.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            Ok(self.0.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Requests out of order, or a byte twice, would be another load than the one that is told of.
    #[test]
    fn bytes_leave_in_their_order_however_few_are_taken() {
        let long: Arc<[u8]> = (0..200_000).map(|byte: u32| byte.to_le_bytes()[0]).collect();
        for room in [1, 7, 4096, 1 << 20] {
            let mut outbox = Outbox::default();
            let mut wanted = Vec::new();
            for number in 0..20 {
                let head = format!("head {number};");
                outbox.own.extend_from_slice(head.as_bytes());
                wanted.extend_from_slice(head.as_bytes());
                let range = number..long.len() >> (number % 6);
                outbox.push(&long, range.clone());
                wanted.extend_from_slice(&long[range]);
            }
            let mut sink = Narrow(Vec::new(), room);
            assert_eq!(outbox.write(&mut sink).unwrap(), wanted.len() as u64);
            assert!(sink.0 == wanted && outbox.is_empty(), "{room}");
        }
    }
}
