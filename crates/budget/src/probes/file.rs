//! A file read and written: through the page cache, past it, and past it in huge pages (Lameter, as
//! reported in LWN 787754).

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    time::Instant,
};

use impasto_region::{
    Frames, Span,
    layout::{BLOCK_BYTES, Geometry},
};
use rustix::fs::OFlags;

use super::Pages;
use crate::{BudgetError, Figure};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file to memory.
    Read,
    /// From memory to the file.
    Write,
}

/// What is between the file and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The page cache: what is read is there already, what is written is not synced.
    Buffered,
    /// Nothing: `O_DIRECT`, memory in pages of 4 KiB, most often.
    Direct,
    /// Nothing: `O_DIRECT`, memory in pages of 2 MiB, most often, where the system has them.
    DirectHuge,
}

/// A file without a name, and memory for one request.
#[derive(Debug)]
pub struct FileProbe {
    buffered: File,
    direct: io::Result<File>,
    bytes: u64,
}

/// What one request moves.
const REQUEST_BYTES: u64 = 4 << 20;

impl FileProbe {
    /// Makes a file of `bytes` in `dir`, which nobody sees and which ends with this.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(dir: &Path, bytes: u64) -> io::Result<Self> {
        let bytes = bytes.next_multiple_of(REQUEST_BYTES);
        let buffered = tempfile::tempfile_in(dir)?;
        let ones = vec![1; usize::try_from(REQUEST_BYTES).expect("small")];
        for at in (0..bytes).step_by(ones.len()) {
            buffered.write_all_at(&ones, at)?;
        }
        buffered.sync_all()?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag is a positive int");
        let same = format!("/proc/self/fd/{}", buffered.as_raw_fd());
        let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(same);
        Ok(Self { buffered, direct, bytes })
    }

    /// Returns the GB in a second of requests of 4 MiB, one at a time, through the whole file.
    ///
    /// # Errors
    /// What the system says; not all file systems know `O_DIRECT`.
    pub fn measure(&self, direction: Direction, mode: Mode) -> Result<Figure, BudgetError> {
        if mode == Mode::DirectHuge {
            Pages::Huge.check()?;
        }
        let geometry = Geometry::new(16 << 20).expect("a region's size");
        let mut frames = match mode {
            Mode::DirectHuge => Frames::anonymous_huge(geometry, 0)?,
            Mode::Buffered | Mode::Direct => Frames::anonymous(geometry, 0)?,
        };
        let file = match (mode, &self.direct) {
            (Mode::Buffered, _) => &self.buffered,
            (_, Ok(direct)) => direct,
            (_, Err(error)) => return Err(io::Error::new(error.kind(), error.to_string()).into()),
        };
        // From a huge page's start on, where there are some.
        let span = Span::new(HUGE_BYTES, REQUEST_BYTES);
        frames.store(0, &vec![1; usize::try_from(span.end()).expect("small")]);
        let mut rates = Vec::new();
        for at in (0..self.bytes / REQUEST_BYTES).map(|n| n * REQUEST_BYTES) {
            let start = Instant::now();
            match direction {
                Direction::Write => file.write_all_at(frames.bytes(span), at)?,
                Direction::Read => {
                    let mut loan = frames.loan_span(span);
                    let read = file.read_exact_at(loan.bytes_mut(), at);
                    frames.settle_span(loan);
                    read?;
                }
            }
            rates.push(span.len as f64 / start.elapsed().as_nanos().max(1) as f64);
        }
        Ok(Figure::of(rates))
    }
}

const HUGE_BYTES: u64 = 2 << 20;
const _: () = assert!(REQUEST_BYTES.is_multiple_of(BLOCK_BYTES));
