//! Vectors that are used again: after warm-up a request allocates nothing.

use impasto_region::Extent;
use impasto_ring::{Part, Transmit};
use impasto_store::Load;

use crate::{
    config::{POOLED_BYTES_MAX, POOLED_MAX},
    output::Output,
};

/// Empty vectors with capacity. One that has grown beyond the usual is given back to the system.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    bytes: Vec<Vec<u8>>,
    extents: Vec<Vec<Extent>>,
    loads: Vec<Vec<(Load, usize)>>,
    outputs: Vec<Output>,
    transmits: Vec<Transmit>,
}

impl Pools {
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        self.bytes.pop().unwrap_or_default()
    }

    pub(crate) fn give_bytes(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        let capacity = bytes.capacity();
        give(&mut self.bytes, bytes, capacity);
    }

    pub(crate) fn extents(&mut self) -> Vec<Extent> {
        self.extents.pop().unwrap_or_default()
    }

    pub(crate) fn give_extents(&mut self, mut extents: Vec<Extent>) {
        extents.clear();
        let capacity = extents.capacity() * size_of::<Extent>();
        give(&mut self.extents, extents, capacity);
    }

    pub(crate) fn loads(&mut self) -> Vec<(Load, usize)> {
        self.loads.pop().unwrap_or_default()
    }

    pub(crate) fn give_loads(&mut self, mut loads: Vec<(Load, usize)>) {
        loads.clear();
        let capacity = loads.capacity() * size_of::<(Load, usize)>();
        give(&mut self.loads, loads, capacity);
    }

    pub(crate) fn transmit(&mut self) -> Transmit {
        self.transmits.pop().unwrap_or_default()
    }

    pub(crate) fn give_transmit(&mut self, mut transmit: Transmit) {
        transmit.bytes.clear();
        transmit.parts.clear();
        let capacity = transmit.bytes.capacity() + transmit.parts.capacity() * size_of::<Part>();
        give(&mut self.transmits, transmit, capacity);
    }

    /// Lends memory to an output that has none.
    pub(crate) fn furnish(&mut self, output: &mut Output) {
        if !output.is_furnished()
            && let Some(mut spare) = self.outputs.pop()
        {
            output.trade(&mut spare);
        }
    }

    /// Takes the memory of an output that is empty.
    pub(crate) fn strip(&mut self, output: &mut Output) {
        if output.is_spare() {
            let mut spare = Output::default();
            spare.trade(output);
            let capacity = spare.capacity();
            give(&mut self.outputs, spare, capacity);
        }
    }
}

fn give<T>(pool: &mut Vec<T>, item: T, capacity: usize) {
    if capacity > 0 && capacity <= POOLED_BYTES_MAX && pool.len() < POOLED_MAX {
        pool.push(item);
    }
}
