//! An ordinary file, mapped: a copy, and for each turn one `msync` of what is new.
//!
//! The file is written beforehand, so that the kernel has no blocks to find for it. It writes whole
//! pages: the page in which a commit ends is written once more with the next one.

use std::convert::Infallible;

use impasto::region::{Frames, Region, layout::MediumKind};

use super::{Start, engine::Variant, logs::Place, memory::Memory, record::Record};
use crate::{
    cli::Failure,
    stages::{Stage, Stages},
};

#[derive(Debug)]
struct Mapped {
    memory: Memory,
    /// With the lock.
    _region: Region,
}

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    let region = start.region(MediumKind::Disk)?;
    // Not touched: of a file on a disk that is what an `msync` undoes, page by page.
    let memory = Memory::new(&region, Frames::shared(region.file(), start.geometry)?);
    start.serve(Mapped { memory, _region: region })
}

impl Variant for Mapped {
    type State = ();

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        Ok(self.memory.append(record))
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        if self.memory.seal() {
            for span in self.memory.sealed.drain(..) {
                self.memory.frames.sync(span)?;
            }
            stages.charge(Stage::Fence);
        }
        Ok(())
    }

    fn empty(&mut self) {
        self.memory.begin_anew();
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        Ok(self.memory.read(place, out))
    }
}
