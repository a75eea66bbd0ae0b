//! Which landing buffers are held by bodies that are not complete.

use impasto_region::BufId;
use impasto_ring::Ring;

/// Landing buffers of the port, as far as the worker has to know.
#[derive(Debug, Default)]
pub(crate) struct Landing {
    /// Buffers that the port has.
    provided: u32,
    /// Buffers that it should have and has not, because the region was full.
    missing: u32,
    /// Buffers with held pieces, and how many. At most as many as there are landing buffers.
    held: Vec<(BufId, u32)>,
}

impl Landing {
    /// Returns the account of `wanted` buffers that are still to be provided.
    pub(crate) fn new(wanted: u32) -> Self {
        Self { provided: 0, missing: wanted, held: Vec::new() }
    }

    /// The port has given a buffer back.
    pub(crate) const fn drained(&mut self) {
        self.provided -= 1;
        self.missing += 1;
    }

    /// The port has got a buffer.
    pub(crate) const fn provided(&mut self) {
        self.provided += 1;
        self.missing -= 1;
    }

    /// Returns true if the port has none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.provided == 0
    }

    /// Returns true if the port should have more.
    pub(crate) const fn is_short(&self) -> bool {
        self.missing > 0
    }

    /// Keeps a piece in `buf` where it landed, beyond its slot.
    pub(crate) fn hold(&mut self, ring: &mut Ring, buf: BufId) {
        match self.held.iter_mut().find(|(held, _)| *held == buf) {
            Some((_, count)) => *count += 1,
            None => self.held.push((buf, 1)),
        }
        ring.hold(buf);
    }

    /// Lets go of a piece.
    pub(crate) fn unhold(&mut self, ring: &mut Ring, buf: BufId) {
        let index = self.held.iter().position(|(held, _)| *held == buf);
        let index = index.expect("a piece that is let go was held");
        self.held[index].1 -= 1;
        if self.held[index].1 == 0 {
            self.held.swap_remove(index);
        }
        ring.unhold(buf);
    }

    /// Returns true if fewer than a quarter of the buffers are free of held pieces: slow senders
    /// must not starve the others.
    pub(crate) const fn is_tight(&self) -> bool {
        self.held.len() as u64 * 4 > self.provided as u64 * 3
    }
}
