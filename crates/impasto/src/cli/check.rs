//! Every live value, held against its checksum, in the order in which they stand on the medium.

use impasto::{
    region::{Checksum, Extent, Frames, Span},
    store::{Recovered, StoredValue},
};

use super::{
    damage::Damage,
    reader::{Piece, Reader, pieces},
};

/// What was checked, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) values: u64,
    pub(super) bytes: u64,
    pub(super) damaged: Vec<Damage>,
}

/// So many bytes that nobody asked for are read on the way to the next value, rather than starting
/// another read: about what the medium gives in the time that a read takes.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// An extent of a value, where it stands.
#[derive(Clone, Copy, Debug)]
struct Part {
    span: Span,
    /// Its place among all parts.
    index: usize,
}

/// A value that is not in the log.
#[derive(Debug)]
struct Kept<'a> {
    log: &'a str,
    seq: u64,
    checksum: u64,
    /// Its extents; their parts have the indexes from `first` on.
    extents: Vec<Extent>,
    first: usize,
}

/// Values to be checked.
#[derive(Debug)]
pub(super) struct Values<'a> {
    checked: Checked,
    kept: Vec<Kept<'a>>,
    parts: Vec<Part>,
}

impl<'a> Values<'a> {
    /// Checks those that stand in the log, which is in its frames, and gathers the others.
    pub(super) fn new(recovered: &'a Recovered, frames: &Frames) -> Self {
        let mut values = Self { checked: Checked::default(), kept: Vec::new(), parts: Vec::new() };
        for value in recovered.values() {
            values.checked.values += 1;
            values.checked.bytes +=
                value.extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
            if value.loaded {
                values.check_in(frames, &value);
            } else {
                values.gather(value);
            }
        }
        values.parts.sort_unstable_by_key(|part| part.span.at);
        values
    }

    fn check_in(&mut self, frames: &Frames, value: &StoredValue<'_>) {
        let mut sum = Checksum::new();
        value.extents.iter().for_each(|extent| sum.update(frames.bytes(extent.span())));
        if sum.value() != value.checksum {
            let at = value.extents.first().map(|extent| extent.span().at);
            self.checked.damaged.push(damage(value.log, value.seq, at, None));
        }
    }

    fn gather(&mut self, value: StoredValue<'a>) {
        let StoredValue { log, seq, checksum, extents, .. } = value;
        let first = self.parts.len();
        let parts = (first..).zip(&extents);
        self.parts.extend(parts.map(|(index, extent)| Part { span: extent.span(), index }));
        self.kept.push(Kept { log, seq, checksum, extents, first });
    }

    /// Returns what has to be read: pieces of whole blocks, and the index behind the last part of
    /// each.
    fn pieces(&self) -> Vec<(Span, usize)> {
        let spans: Vec<_> = self.parts.iter().map(|part| part.span).collect();
        pieces(&spans, GAP_BYTES_MAX)
    }

    /// Returns how many bytes [`check`](Self::check) will read.
    pub(super) fn bytes_to_read(&self) -> u64 {
        self.pieces().iter().map(|(span, _)| span.len).sum()
    }

    /// Reads and checks them all. `progress` is told of bytes that were read.
    pub(super) fn check(self, reader: &Reader<'_>, progress: &mut dyn FnMut(u64)) -> Checked {
        let pieces = self.pieces();
        let spans: Vec<_> = pieces.iter().map(|(span, _)| *span).collect();
        let mut sums = vec![0; self.parts.len()];
        let mut unreadable = Vec::new();
        let (mut from, mut behinds) = (0, pieces.iter().map(|(_, behind)| *behind));
        reader.read(&spans, |piece: Piece<'_>| {
            let behind = behinds.next().unwrap_or(from);
            for part in &self.parts[from..behind] {
                sums[part.index] = Checksum::of(piece.part(part.span));
            }
            from = behind;
            unreadable.extend_from_slice(piece.unreadable);
            progress(piece.span.len);
        });
        let Self { mut checked, kept, .. } = self;
        for value in kept {
            let sums = value.extents.iter().zip(&sums[value.first..]);
            let parts = sums.map(|(extent, &sum)| (sum, u64::from(extent.len)));
            let sum = parts.reduce(|(first, before), (rest, bytes)| {
                (Checksum::combine(first, rest, bytes), before + bytes)
            });
            if sum.map_or_else(|| Checksum::of(&[]), |(sum, _)| sum) != value.checksum {
                let spans = value.extents.iter().map(|extent| extent.span());
                let bad = spans.clone().find_map(|span| {
                    unreadable.iter().find(|block| block.overlaps(span)).map(|block| block.at)
                });
                let at = spans.map(|span| span.at).next();
                checked.damaged.push(damage(value.log, value.seq, at, bad));
            }
        }
        checked
    }
}

fn damage(log: &str, seq: u64, at: Option<u64>, unreadable: Option<u64>) -> Damage {
    let at_text = at.map_or_else(String::new, |at| format!(" (at byte {at:#x} of the region)"));
    let what = match unreadable {
        None => format!("record {seq} of log {log} does not verify{at_text}"),
        Some(block) => format!(
            "record {seq} of log {log} does not verify{at_text}: the block at byte {block:#x} \
             cannot be read"
        ),
    };
    Damage { at, log: Some(log.to_owned()), seq: Some(seq), ..Damage::new(what) }
}
