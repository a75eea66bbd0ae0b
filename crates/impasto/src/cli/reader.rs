//! Reads a region at rest as fast as its medium gives it: in large pieces, ahead of who looks at
//! them, and past the page cache, which has better things to hold.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
};

use impasto::region::{Examined, Frames, Region, Span, layout::BLOCK_BYTES};
use impasto::store::{Corruption, Recovery, Step};

/// Where a region is read from.
pub(super) trait Source: Sync {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;

    fn open_direct(&self) -> Option<File>;
}

impl Source for Examined {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        Self::read_at(self, bytes, at)
    }

    fn open_direct(&self) -> Option<File> {
        Self::open_direct(self)
    }
}

impl Source for Region {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        Self::read_at(self, bytes, at)
    }

    fn open_direct(&self) -> Option<File> {
        Self::open_direct(self).ok()
    }
}

/// A region, to be read.
pub(super) struct Reader<'a> {
    region: &'a dyn Source,
    /// `None` where files can be read through the page cache only: in memory, most often.
    direct: Option<File>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub(super) span: Span,
    pub(super) bytes: &'a [u8],
    /// Blocks that the medium could not read: zeroes in `bytes`.
    pub(super) unreadable: &'a [Span],
}

impl Piece<'_> {
    /// Returns the bytes of `span`, which lies in the piece.
    pub(super) fn part(&self, span: Span) -> &[u8] {
        let start = usize_of(span.at - self.span.at);
        &self.bytes[start..start + usize_of(span.len)]
    }
}

/// Most bytes that are read at once.
pub(super) const PIECE_BYTES: u64 = 2 << 20;
/// Reads under way at a time.
const LANES: usize = 3;
/// Buffers of a lane: it reads into one while the other is looked at.
const LANE_BUFS: usize = 2;
const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);

impl<'a> Reader<'a> {
    pub(super) fn new(region: &'a dyn Source) -> Self {
        Self { region, direct: region.open_direct() }
    }

    /// Reads pieces of whole blocks, at most [`PIECE_BYTES`] each, and shows them in their order.
    pub(super) fn read(&self, pieces: &[Span], mut look: impl FnMut(Piece<'_>)) {
        let longest = pieces.iter().map(|piece| piece.len).max().unwrap_or(0);
        let [mut first, ..] = [Buffer::new(longest)];
        if pieces.len() < LANES {
            for &span in pieces {
                let unreadable = self.fill(span, first.bytes(span.len));
                look(Piece { span, bytes: first.bytes(span.len), unreadable: &unreadable });
            }
            return;
        }
        thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES)
                .map(|lane| {
                    let (filled, to_look) = mpsc::sync_channel(LANE_BUFS);
                    let (used, to_fill) = mpsc::sync_channel(LANE_BUFS);
                    for _ in 0..LANE_BUFS {
                        let _open = used.send(Buffer::new(longest));
                    }
                    let mine = pieces.iter().skip(lane).step_by(LANES);
                    scope.spawn(move || self.run_lane(mine, &to_fill, &filled));
                    (to_look, used)
                })
                .collect();
            for (&span, (to_look, used)) in pieces.iter().zip(lanes.iter().cycle()) {
                let (mut buffer, unreadable): Filled =
                    to_look.recv().expect("a lane fills a buffer for each of its pieces");
                look(Piece { span, bytes: buffer.bytes(span.len), unreadable: &unreadable });
                // A lane that has no more to read is gone.
                let _gone = used.send(buffer);
            }
        });
    }

    fn run_lane<'b>(
        &self,
        pieces: impl Iterator<Item = &'b Span>,
        to_fill: &Receiver<Buffer>,
        filled: &SyncSender<Filled>,
    ) {
        for &span in pieces {
            let Ok(mut buffer) = to_fill.recv() else { return };
            let unreadable = self.fill(span, buffer.bytes(span.len));
            if filled.send((buffer, unreadable)).is_err() {
                return;
            }
        }
    }

    /// Reads `span`, and returns the blocks of it that cannot be read.
    fn fill(&self, span: Span, bytes: &mut [u8]) -> Vec<Span> {
        if self.read_at(bytes, span.at).is_ok() {
            return Vec::new();
        }
        let blocks = (span.at..span.end()).step_by(BLOCK).zip(bytes.chunks_mut(BLOCK));
        let unreadable = blocks.filter_map(|(at, block)| {
            self.read_at(block, at).is_err().then(|| {
                block.fill(0);
                Span::new(at, BLOCK_BYTES)
            })
        });
        unreadable.collect()
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match &self.direct {
            Some(file) => file.read_exact_at(bytes, at),
            None => self.region.read_at(bytes, at),
        }
    }

    /// Runs recovery as a server would, up to where that would write. `progress` is told of bytes
    /// that were read.
    pub(super) fn recover(
        &self,
        mut recovery: Recovery,
        frames: &mut Frames,
        progress: &mut dyn FnMut(u64),
    ) -> (Recovery, Result<(), Corruption>) {
        loop {
            let mut spans = match recovery.step(frames) {
                Ok(Step::Read(spans)) => spans,
                Ok(Step::Done) => return (recovery, Ok(())),
                Err(corruption) => return (recovery, Err(corruption)),
            };
            spans.sort_unstable_by_key(|span| span.at);
            let pieces: Vec<_> = pieces(&spans, 0).into_iter().map(|(span, _)| span).collect();
            self.read(&pieces, |piece| {
                frames.store(piece.span.at, piece.bytes);
                progress(piece.span.len);
            });
        }
    }
}

/// Puts spans, sorted by their start, together to pieces of whole blocks; at most `gap_max` bytes
/// between two of them are read with them. Each piece comes with the index behind its last span.
pub(super) fn pieces(spans: &[Span], gap_max: u64) -> Vec<(Span, usize)> {
    let mut pieces: Vec<(Span, usize)> = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        let start = span.at - span.at % BLOCK_BYTES;
        let end = span.end().next_multiple_of(BLOCK_BYTES);
        if let Some((last, behind)) = pieces.last_mut()
            && start <= last.end().saturating_add(gap_max)
            && end.max(last.end()) - last.at <= PIECE_BYTES
        {
            last.len = end.max(last.end()) - last.at;
            *behind = index + 1;
        } else {
            pieces.push((Span::new(start, end - start), index + 1));
        }
    }
    pieces
}

type Filled = (Buffer, Vec<Span>);

/// Memory whose start is the start of a block, as direct I/O wants it.
#[derive(Debug)]
struct Buffer {
    memory: Vec<u8>,
    lead: usize,
}

impl Buffer {
    fn new(bytes: u64) -> Self {
        let memory = vec![0; usize_of(bytes) + BLOCK];
        let lead = memory.as_ptr().align_offset(BLOCK);
        Self { memory, lead }
    }

    fn bytes(&mut self, len: u64) -> &mut [u8] {
        &mut self.memory[self.lead..self.lead + usize_of(len)]
    }
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a piece fits memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces_of(spans: &[(u64, u64)], gap_max: u64) -> Vec<(u64, u64, usize)> {
        let spans: Vec<_> = spans.iter().map(|&(at, len)| Span::new(at, len)).collect();
        let pieces = pieces(&spans, gap_max).into_iter();
        pieces.map(|(span, behind)| (span.at, span.len, behind)).collect()
    }

    /// What is read one by one is read at a tenth of the rate.
    #[test]
    fn spans_that_adjoin_are_read_together_as_whole_blocks() {
        assert_eq!(pieces_of(&[(4096, 4096), (8192, 100)], 0), [(4096, 8192, 2)]);
        assert_eq!(pieces_of(&[(5000, 10), (6000, 10), (6005, 1)], 0), [(4096, 4096, 3)]);
        assert_eq!(pieces_of(&[(0, 10), (8192, 10)], 0), [(0, 4096, 1), (8192, 4096, 2)]);
        assert_eq!(pieces_of(&[(0, 10), (8192, 10)], 4096), [(0, 12288, 2)]);
        assert_eq!(pieces_of(&[(0, 10_000), (100, 10)], 0), [(0, 12288, 2)]);
        let long = [(0, PIECE_BYTES), (PIECE_BYTES, 1)];
        assert_eq!(pieces_of(&long, 0), [(0, PIECE_BYTES, 1), (PIECE_BYTES, 4096, 2)]);
    }
}
