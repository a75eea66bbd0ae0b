//! What is on a disk, what is in its cache, and what a crash makes of both.
//!
//! Fault model. The atom is a sector of 512 bytes or a block of 4096 ([`Atom`]): after a crash it
//! is one of the versions that it ever had and that were not overwritten for certain, whole.
//! - A completed plain write is in the cache. It reaches the platter at any time or never, each
//!   atom on its own, and atoms of different writes in any order: a later one may be there and an
//!   earlier one lost, and of two writes to the same atom the older may be what is found.
//! - A sync hardens the writes that had completed when it was issued.
//! - A `Dsync` write hardens itself when it completes, and what had completed before only if the
//!   device flushes its whole cache for it ([`Cache`]).
//! - A write in flight at the cut is as one in the cache, `Dsync` or not.
//! - A sync that fails drops what it was to harden, and the next one knows nothing of it (as Linux
//!   and many devices do; "fsyncgate"). A write that fails has changed any of its atoms.
//!
//! Not modelled: misdirected writes, lost writes, atoms that are torn.

use std::{collections::BTreeMap, rc::Rc};

use impasto_media::Durability;
use impasto_region::{Span, layout::BLOCK_BYTES};

use crate::{Fate, Rng, range, rng::survival};

/// How a device treats its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// A `Dsync` write is a write and a flush: when it completes, all that completed before it is
    /// durable, too.
    FlushOnDsync,
    /// A `Dsync` write goes through the cache ("force unit access"): it hardens itself alone.
    Fua,
}

/// What a device writes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atom {
    /// 512 bytes.
    Sector,
    /// 4096 bytes.
    Block,
}

/// Which device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// How it treats its cache.
    pub cache: Cache,
    /// What it writes as a whole.
    pub atom: Atom,
}

impl Model {
    /// Every device there is, for a harness that runs on each.
    pub const ALL: [Self; 4] = [
        Self { cache: Cache::FlushOnDsync, atom: Atom::Sector },
        Self { cache: Cache::FlushOnDsync, atom: Atom::Block },
        Self { cache: Cache::Fua, atom: Atom::Sector },
        Self { cache: Cache::Fua, atom: Atom::Block },
    ];

    /// Returns the atoms of `block`.
    fn atoms(self, block: Span) -> impl Iterator<Item = Span> {
        let bytes = match self.atom {
            Atom::Sector => SECTOR_BYTES,
            Atom::Block => BLOCK_BYTES,
        };
        (0..block.len / bytes).map(move |index| Span::new(block.at + index * bytes, bytes))
    }
}

/// Whole blocks, as they were when their write started.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Writes are numbered in the order of their start.
    pub(crate) number: u64,
    pub(crate) span: Span,
    pub(crate) bytes: Rc<[u8]>,
}

impl Write {
    fn blocks(&self) -> impl Iterator<Item = Span> + use<> {
        let Span { at, len } = self.span;
        (0..len / BLOCK_BYTES).map(move |index| Span::new(at + index * BLOCK_BYTES, BLOCK_BYTES))
    }

    fn bytes_of(&self, part: Span) -> &[u8] {
        &self.bytes[range(Span::new(part.at - self.span.at, part.len))]
    }
}

#[derive(Debug)]
pub(crate) struct Platter {
    model: Model,
    durable: Vec<u8>,
    /// What a read returns: as if nothing could be lost. It goes on after the cut.
    visible: Vec<u8>,
    /// By offset of the block: writes that have completed and are not durable, in that order.
    cached: BTreeMap<u64, Vec<Cached>>,
    /// How many writes have completed.
    completed: u64,
}

#[derive(Debug)]
struct Cached {
    /// How many writes had completed before.
    after: u64,
    write: Write,
}

impl Platter {
    pub(crate) fn new(image: Vec<u8>, model: Model) -> Self {
        let visible = image.clone();
        Self { model, durable: image, visible, cached: BTreeMap::new(), completed: 0 }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.durable.len() as u64
    }

    /// Returns how many writes have completed: a sync issued now covers these.
    pub(crate) fn completed(&self) -> u64 {
        self.completed
    }

    pub(crate) fn read(&self, span: Span) -> &[u8] {
        &self.visible[range(span)]
    }

    /// Completes a write as the server sees it; it is neither durable nor in the cache.
    pub(crate) fn show(&mut self, write: &Write) {
        self.visible[range(write.span)].copy_from_slice(&write.bytes);
    }

    /// Completes a write.
    pub(crate) fn write(&mut self, write: &Write, durability: Durability) {
        self.show(write);
        for block in write.blocks() {
            let cached = Cached { after: self.completed, write: write.clone() };
            self.cached.entry(block.at).or_default().push(cached);
        }
        self.completed += 1;
        match (durability, self.model.cache) {
            (Durability::Plain, _) => {}
            (Durability::Dsync, Cache::FlushOnDsync) => self.sync(self.completed),
            (Durability::Dsync, Cache::Fua) => {
                // Older versions of its own blocks cannot come back after it.
                for block in write.blocks() {
                    self.cached.remove(&block.at);
                }
                self.durable[range(write.span)].copy_from_slice(&write.bytes);
            }
        }
    }

    /// Makes the first `covers` writes that have completed durable.
    pub(crate) fn sync(&mut self, covers: u64) {
        let durable = &mut self.durable;
        self.cached.retain(|at, versions| {
            let block = Span::new(*at, BLOCK_BYTES);
            let synced = versions.partition_point(|cached| cached.after < covers);
            if let Some(newest) = versions.drain(..synced).next_back() {
                durable[range(block)].copy_from_slice(newest.write.bytes_of(block));
            }
            !versions.is_empty()
        });
    }

    /// Fails a sync that covers the first `covers` writes: the cache forgets them.
    pub(crate) fn fail_sync(&mut self, covers: u64) {
        let (durable, visible) = (&self.durable, &mut self.visible);
        self.cached.retain(|at, versions| {
            let block = Span::new(*at, BLOCK_BYTES);
            versions.retain(|cached| cached.after >= covers);
            let bytes = match versions.last() {
                Some(newest) => newest.write.bytes_of(block),
                None => &durable[range(block)],
            };
            visible[range(block)].copy_from_slice(bytes);
            !versions.is_empty()
        });
    }

    /// Fails a write: some of its atoms are on the platter.
    pub(crate) fn fail_write(&mut self, write: &Write, rng: &mut Rng) {
        let model = self.model;
        for atom in write.blocks().flat_map(|block| model.atoms(block)) {
            if rng.once_in(2) {
                self.durable[range(atom)].copy_from_slice(write.bytes_of(atom));
                self.visible[range(atom)].copy_from_slice(write.bytes_of(atom));
            }
        }
    }

    /// Returns what is found after a crash with these writes in flight.
    pub(crate) fn crash(&self, fate: Fate, in_flight: &[Write]) -> Vec<u8> {
        let mut image = self.durable.clone();
        let mut versions: BTreeMap<u64, Vec<&Write>> = BTreeMap::new();
        for (at, cached) in &self.cached {
            versions.insert(*at, cached.iter().map(|cached| &cached.write).collect());
        }
        for write in in_flight {
            for block in write.blocks() {
                versions.entry(block.at).or_default().push(write);
            }
        }
        let mut rng = Rng::new(if let Fate::Seeded(seed) = fate { seed } else { 0 });
        for (at, versions) in versions {
            for atom in self.model.atoms(Span::new(at, BLOCK_BYTES)) {
                let found = match fate {
                    Fate::Nothing => None,
                    Fate::Everything => versions.last().copied(),
                    Fate::Seeded(seed) => choose(&mut rng, seed, &versions),
                };
                if let Some(write) = found {
                    image[range(atom)].copy_from_slice(write.bytes_of(atom));
                }
            }
        }
        image
    }
}

/// Returns one of the writes that have reached the platter, whichever was the last to do so.
fn choose<'a>(rng: &mut Rng, seed: u64, versions: &[&'a Write]) -> Option<&'a Write> {
    let mut reached = versions.to_vec();
    reached.retain(|write| rng.below(16) < survival(seed, write.number));
    (!reached.is_empty()).then(|| reached[rng.index(reached.len())])
}

pub(crate) const SECTOR_BYTES: u64 = 512;
