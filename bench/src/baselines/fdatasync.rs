//! A log file as it is written by most who write one: each request is appended with `write`, and
//! synced with `fdatasync` before it is answered.
//!
//! The file grows, so each sync has a length to bring to the disk, too. When it is as long as it
//! may be it begins anew.

use std::{convert::Infallible, fs::File, io::IoSlice, os::unix::fs::FileExt};

use rustix::{fs::fdatasync, io::pwritev};

use super::{
    Start,
    engine::Variant,
    logs::Place,
    record::{Open, Record},
};
use crate::{
    cli::Failure,
    stages::{Stage, Stages},
};

#[derive(Debug)]
struct Appended {
    file: File,
    open: Open,
    /// How long the file is, and was whenever it began anew.
    len: u64,
    before: u64,
    bytes_max: u64,
    is_dirty: bool,
}

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    let path = start.dir()?.join("log");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    let bytes_max = start.geometry.region_bytes();
    let (open, len, before) = (Open::new(), 0, 0);
    start.serve(Appended { file, open, len, before, bytes_max, is_dirty: false })
}

impl Variant for Appended {
    const EACH: bool = true;
    type State = ();

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        if self.len > self.bytes_max {
            self.file.set_len(0)?;
            (self.before, self.len) = (self.before + self.len, 0);
        }
        let (head, body) = (record.head(), record.body());
        self.open.add(&head, body.len());
        let len = self.open.len();
        let header = self.open.seal(self.len);
        let fill = len - header.len() - head.bytes().len() - body.len();
        let parts = [&header, head.bytes(), body, &[0; 8][..fill]].map(IoSlice::new);
        if pwritev(&self.file, &parts, self.len)? < len {
            return Err("a write was cut short".into());
        }
        let at = self.before + self.len + (header.len() + head.bytes().len()) as u64;
        self.len += len as u64;
        self.is_dirty = true;
        Ok(at)
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        if self.is_dirty {
            fdatasync(&self.file)?;
            stages.charge(Stage::Fence);
            self.is_dirty = false;
        }
        Ok(())
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        let Some(at) = place.at.checked_sub(self.before) else { return Ok(false) };
        let start = out.len();
        out.resize(start + place.len as usize, 0);
        self.file.read_exact_at(&mut out[start..], at)?;
        Ok(true)
    }
}
