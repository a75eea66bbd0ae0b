//! Replies of one connection, from being written to being sent, in order.

use std::time::Instant;

use impasto_region::Extent;
use impasto_ring::{Part, Transmit};
use impasto_store::Lsn;

use crate::config::{OUTPUT_BYTES_MAX, OUTPUT_REPLIES_MAX};

/// What is to be sent on a flow. Without replies it holds no memory: its vectors are the pool's.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Heads and short bodies of the replies.
    bytes: Vec<u8>,
    /// Stored values of the replies, pinned.
    stored: Vec<Extent>,
    /// The replies, in order.
    replies: Vec<Reply>,
    /// Bytes of all of them.
    queued: u64,
    /// Bytes of the transmit that is under way, and since when it is.
    sending: Option<(u64, Instant)>,
}

/// A reply: `bytes` bytes of `Output::bytes`, then `stored` extents of `Output::stored`.
#[derive(Clone, Copy, Debug)]
struct Reply {
    lsn: Lsn,
    bytes: u32,
    stored: u32,
}

impl Output {
    /// Returns true if nothing is queued and nothing is under way.
    pub(crate) const fn is_done(&self) -> bool {
        self.replies.is_empty() && self.sending.is_none()
    }

    /// Returns true if no reply waits for being sent.
    pub(crate) const fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Returns true if the vectors hold memory that nothing needs now.
    pub(crate) const fn is_spare(&self) -> bool {
        self.replies.is_empty() && self.replies.capacity() > 0
    }

    /// Returns true if the vectors hold memory.
    pub(crate) const fn is_furnished(&self) -> bool {
        self.replies.capacity() > 0
    }

    /// Returns what has to be durable for the next transmit; `None` if nothing waits, or only for
    /// the end of the one that is under way.
    pub(crate) fn awaits(&self) -> Option<Lsn> {
        if self.is_sending() { None } else { self.replies.first().map(|reply| reply.lsn) }
    }

    /// Returns true if so much waits that the flow is not read on.
    pub(crate) fn is_full(&self) -> bool {
        self.queued + self.sending_bytes() > OUTPUT_BYTES_MAX
            || self.replies.len() > OUTPUT_REPLIES_MAX
    }

    /// Returns the stored values that are to be sent.
    pub(crate) fn stored(&self) -> &[Extent] {
        &self.stored
    }

    /// Returns the bytes of the transmit that is under way.
    pub(crate) fn sending_bytes(&self) -> u64 {
        self.sending.map_or(0, |(bytes, _)| bytes)
    }

    /// Returns true if a transmit is under way.
    pub(crate) const fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Returns the bytes of the transmit that is under way, and since when it is.
    pub(crate) const fn sending(&self) -> Option<(u64, Instant)> {
        self.sending
    }

    /// The transmit under way, if there is one, counts from `now` on.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.sending = self.sending.map(|(bytes, _)| (bytes, now));
    }

    /// Takes the memory of `other`, and gives its own.
    pub(crate) const fn trade(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.bytes, &mut other.bytes);
        std::mem::swap(&mut self.stored, &mut other.stored);
        std::mem::swap(&mut self.replies, &mut other.replies);
    }

    /// Returns the bytes that its vectors can hold.
    pub(crate) const fn capacity(&self) -> usize {
        self.bytes.capacity()
            + self.stored.capacity() * size_of::<Extent>()
            + self.replies.capacity() * size_of::<Reply>()
    }

    /// Adds a reply that depends on `lsn`: what `write` appends, then the bytes of `stored`.
    pub(crate) fn reply(&mut self, lsn: Lsn, stored: &[Extent], write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.stored.extend_from_slice(stored);
        let bytes = u32::try_from(self.bytes.len() - start).expect("a reply is below 4 GiB");
        let parts = u32::try_from(stored.len()).expect("a value has at most 1,024 extents");
        self.queued += u64::from(bytes) + total(stored);
        self.replies.push(Reply { lsn, bytes, stored: parts });
    }

    /// Moves the replies whose lsn is at most `durable` (D3), up to the first that has to wait,
    /// into `transmit`, which is empty. Returns false if there is none.
    pub(crate) fn release(&mut self, durable: Lsn, transmit: &mut Transmit, now: Instant) -> bool {
        let ready = self.replies.iter().take_while(|reply| reply.lsn <= durable).count();
        if ready == 0 {
            return false;
        }
        let (mut at, mut start, mut stored) = (0, 0, 0);
        for reply in self.replies.drain(..ready) {
            at += reply.bytes;
            if reply.stored > 0 {
                transmit.parts.push(Part::Bytes { at: start, len: at - start });
                start = at;
                let values = &self.stored[stored..stored + reply.stored as usize];
                transmit.parts.extend(values.iter().copied().map(Part::Stored));
                stored += values.len();
            }
        }
        if at > start {
            transmit.parts.push(Part::Bytes { at: start, len: at - start });
        }
        let sending = u64::from(at) + total(&self.stored[..stored]);
        self.stored.drain(..stored);
        if self.replies.is_empty() {
            std::mem::swap(&mut self.bytes, &mut transmit.bytes);
        } else {
            let ready = at as usize;
            transmit.bytes.extend_from_slice(&self.bytes[..ready]);
            self.bytes.drain(..ready);
        }
        self.queued -= sending;
        self.sending = Some((sending, now));
        true
    }

    /// The transmit has ended.
    pub(crate) const fn sent(&mut self) {
        self.sending = None;
    }

    /// Takes back every reply from the first on that waits for more than `durable`; hands their
    /// stored values to `unpin`. Returns false if there is none.
    pub(crate) fn recall(&mut self, durable: Lsn, unpin: impl FnOnce(&[Extent])) -> bool {
        let stays = self.replies.iter().take_while(|reply| reply.lsn <= durable).count();
        if stays == self.replies.len() {
            return false;
        }
        let kept = &self.replies[..stays];
        let bytes: usize = kept.iter().map(|reply| reply.bytes as usize).sum();
        let stored: usize = kept.iter().map(|reply| reply.stored as usize).sum();
        unpin(&self.stored[stored..]);
        self.replies.truncate(stays);
        self.bytes.truncate(bytes);
        self.stored.truncate(stored);
        self.queued = bytes as u64 + total(&self.stored);
        true
    }

    /// Takes back every reply.
    pub(crate) fn clear(&mut self, unpin: impl FnOnce(&[Extent])) {
        unpin(&self.stored);
        self.replies.clear();
        self.bytes.clear();
        self.stored.clear();
        self.queued = 0;
    }
}

fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.len)).sum()
}

#[cfg(test)]
mod tests {
    use impasto_region::BufId;

    use super::*;

    fn stored(len: u32) -> [Extent; 1] {
        [Extent { buf: BufId(3), offset: 0, len }]
    }

    fn put(output: &mut Output, lsn: u64, head: &str, value: &[Extent]) {
        output.reply(Lsn(lsn), value, |out| out.extend_from_slice(head.as_bytes()));
    }

    fn filled() -> Output {
        let mut output = Output::default();
        put(&mut output, 1, "one ", &[]);
        put(&mut output, 0, "two ", &stored(10));
        put(&mut output, 5, "three ", &stored(20));
        put(&mut output, 2, "four", &[]);
        output
    }

    /// D3, in flow order: a reply that may leave must not overtake one that may not.
    #[test]
    fn d3_replies_leave_up_to_the_first_that_is_not_durable() {
        let (mut output, mut transmit) = (filled(), Transmit::default());
        assert!(!output.release(Lsn(0), &mut transmit, Instant::now()));
        assert!(output.release(Lsn(4), &mut transmit, Instant::now()));
        assert_eq!(transmit.bytes, b"one two ");
        let parts = [Part::Bytes { at: 0, len: 8 }, Part::Stored(stored(10)[0])];
        assert_eq!(transmit.parts, parts);
        assert!(output.is_sending() && !output.is_empty());
        output.sent();

        let mut transmit = Transmit::default();
        assert!(output.release(Lsn(5), &mut transmit, Instant::now()));
        assert_eq!(transmit.bytes, b"three four");
        let parts = [
            Part::Bytes { at: 0, len: 6 },
            Part::Stored(stored(20)[0]),
            Part::Bytes { at: 6, len: 4 },
        ];
        assert_eq!(transmit.parts, parts);
        output.sent();
        assert!(output.is_done() && output.queued == 0);
    }

    /// D7: a value that is not sent after all would stay pinned for ever.
    #[test]
    fn d7_recalled_replies_give_back_their_values() {
        let mut output = filled();
        let mut unpinned = Vec::new();
        assert!(output.recall(Lsn(4), |values| unpinned.extend_from_slice(values)));
        assert_eq!(unpinned, stored(20));
        assert!(!output.recall(Lsn(4), |_| unreachable!("nothing is left to be recalled")));
        put(&mut output, 0, "lost", &[]);
        let mut transmit = Transmit::default();
        assert!(output.release(Lsn(4), &mut transmit, Instant::now()));
        assert_eq!(transmit.bytes, b"one two lost");
        assert_eq!(output.queued, 0);
    }

    #[test]
    fn output_is_full_by_bytes_and_by_replies() {
        let mut output = Output::default();
        put(&mut output, 0, "", &stored(1 << 18));
        assert!(!output.is_full());
        put(&mut output, 0, "x", &[]);
        assert!(output.is_full());
        let mut output = Output::default();
        (0..OUTPUT_REPLIES_MAX).for_each(|_| put(&mut output, 0, "", &[]));
        assert!(!output.is_full());
        put(&mut output, 0, "", &[]);
        assert!(output.is_full());
    }
}
