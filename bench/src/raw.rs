//! What the disk does without a server: the floor below every figure on `disk`.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

/// A file that is all there: allocated, written with zeroes, synced.
#[derive(Debug)]
pub(crate) struct RawFile {
    dsync: File,
    direct: File,
    buffered: File,
    bytes: u64,
}

/// What makes an overwrite durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// `O_DIRECT | O_DSYNC`.
    Direct,
    /// A write to the page cache, then fdatasync.
    Fdatasync,
}

/// Overwrites of one block each.
#[derive(Debug)]
pub(crate) struct Overwrites {
    /// Nanoseconds that each took, sorted.
    pub(crate) sorted_ns: Vec<u64>,
}

impl RawFile {
    /// Makes the file `path` of `bytes`, a multiple of 4 MiB.
    pub(crate) fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        assert!(bytes > 0 && bytes.is_multiple_of(CHUNKS[1] as u64), "whole chunks");
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let zeroes = vec![0; CHUNKS[1]];
        for chunk in 0..bytes / CHUNKS[1] as u64 {
            file.write_all_at(&zeroes, chunk * CHUNKS[1] as u64)?;
        }
        file.sync_all()?;
        let open = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).expect("a flag is a positive int");
            OpenOptions::new().write(true).custom_flags(flags).open(path)
        };
        Ok(Self {
            dsync: open(OFlags::DIRECT | OFlags::DSYNC)?,
            direct: open(OFlags::DIRECT)?,
            buffered: file,
            bytes,
        })
    }

    /// Overwrites block after block for `time`, and makes each durable.
    pub(crate) fn overwrite(&self, by: Sync, time: Duration) -> io::Result<Overwrites> {
        let buffer = Aligned::new(BLOCK);
        let (start, mut at) = (Instant::now(), 0);
        let mut sorted_ns = Vec::new();
        while start.elapsed() < time {
            let sent = Instant::now();
            match by {
                Sync::Direct => self.dsync.write_all_at(buffer.bytes(), at)?,
                Sync::Fdatasync => {
                    self.buffered.write_all_at(buffer.bytes(), at)?;
                    self.buffered.sync_data()?;
                }
            }
            sorted_ns.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
            at = (at + BLOCK as u64) % self.bytes;
        }
        sorted_ns.sort_unstable();
        Ok(Overwrites { sorted_ns })
    }

    /// Writes all of the file in sequence with `O_DIRECT`, 4 requests at a time, in requests of
    /// 1 MiB and then of 4 MiB, and returns the better rate in bytes per second.
    pub(crate) fn sequential(&self) -> io::Result<f64> {
        let mut best = 0.0_f64;
        for chunk in CHUNKS {
            let start = Instant::now();
            let next = AtomicU64::new(0);
            thread::scope(|scope| {
                let writers: Vec<_> =
                    (0..DEPTH).map(|_| scope.spawn(|| self.write_from(&next, chunk))).collect();
                writers.into_iter().try_for_each(|writer| writer.join().expect("a writer returns"))
            })?;
            best = best.max(self.bytes as f64 / start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    fn write_from(&self, next: &AtomicU64, chunk: usize) -> io::Result<()> {
        let buffer = Aligned::new(chunk);
        loop {
            // Relaxed: the number is all that is shared.
            let at = next.fetch_add(chunk as u64, Ordering::Relaxed);
            if at >= self.bytes {
                return Ok(());
            }
            self.direct.write_all_at(buffer.bytes(), at)?;
        }
    }
}

/// Bytes at an address that direct I/O takes.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        // Written, not only mapped: reading fresh zero pages is cheaper than reading memory.
        let memory = vec![1; len + BLOCK];
        let from = memory.as_ptr().align_offset(BLOCK);
        Self { memory, from, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.len]
    }
}

const BLOCK: usize = 4096;
/// What a write request carries.
const CHUNKS: [usize; 2] = [1 << 20, 4 << 20];
/// Requests at a time.
const DEPTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// A floor that is not on a disk, or not direct, would flatter or damn everything above it.
    #[test]
    fn the_whole_file_is_overwritten_directly() {
        let own = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        let path = dir.path().join("raw");
        let raw = RawFile::create(&path, 8 << 20).unwrap();
        assert!(raw.sequential().unwrap() > 0.0);
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 1));
        let overwrites = raw.overwrite(Sync::Direct, Duration::from_millis(1)).unwrap();
        assert!(overwrites.sorted_ns.is_sorted() && !overwrites.sorted_ns.is_empty());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 << 20);
    }
}
