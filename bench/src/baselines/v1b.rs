//! V1b, by hand: epoll, one read for each ready connection, a copy into the mapped region, and for
//! each turn one flush, one fence, and one write for each connection.
//!
//! ```text
//! append: copy;  persist: flush -> fence, for each turn;  then write, for each connection
//! ```
//!
//! It is what one would write by hand for persistent memory, and the fair comparison: it batches as
//! Impasto does, and it copies.

use std::convert::Infallible;

use impasto::{
    media::CpuLines,
    region::{Region, layout::MediumKind},
};

use super::{
    Start,
    engine::Variant,
    logs::Place,
    memory::{self, Memory},
    record::Record,
};
use crate::{cli::Failure, lines::Delayed, stages::Stages};

/// `EACH`: persists each request by itself, which makes it V1.
#[derive(Debug)]
struct Copying<const EACH: bool> {
    memory: Memory,
    lines: Delayed<CpuLines>,
    /// With the lock.
    _region: Region,
}

pub(super) fn serve<const EACH: bool>(start: Start) -> Result<Infallible, Failure> {
    let region = start.region(MediumKind::Shm)?;
    let lines = Delayed::new(CpuLines::detect(), start.fence_delay);
    let memory = Memory::new(&region, memory::touched(&region)?);
    start.serve(Copying::<EACH> { memory, lines, _region: region })
}

impl<const EACH: bool> Variant for Copying<EACH> {
    const EACH: bool = EACH;
    type State = ();

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        Ok(self.memory.append(record))
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        self.memory.persist(&mut self.lines, stages);
        Ok(())
    }

    fn empty(&mut self) {
        self.memory.begin_anew();
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        Ok(self.memory.read(place, out))
    }
}
