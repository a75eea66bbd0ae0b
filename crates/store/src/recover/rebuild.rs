//! A superblock for a region that has lost both, from the headers of its log's segments.

use std::collections::{BTreeSet, HashMap};

use impasto_region::{
    SegmentId,
    layout::{Geometry, MediumKind, Superblock},
};

use super::counts;
use crate::format::SegmentHeader;

/// What segment headers tell of a region.
#[derive(Clone, Debug)]
pub struct Rebuild {
    geometry: Geometry,
    medium: MediumKind,
    /// By uuid: what was overwritten may have been another region.
    heads: HashMap<[u8; 16], Vec<SegmentHeader>>,
}

/// A superblock that was made up.
#[derive(Clone, Copy, Debug)]
pub struct Rebuilt {
    /// Of a run that was never heard of.
    pub superblock: Superblock,
    /// Chain numbers of the log, both included, that were needed once and are not there: freed
    /// since, or damaged. Nothing tells which, if no log that is left misses anything.
    pub missing: Option<(u64, u64)>,
}

impl Rebuild {
    /// Starts with what no header tells.
    pub fn new(geometry: Geometry, medium: MediumKind) -> Self {
        Self { geometry, medium, heads: HashMap::new() }
    }

    /// Looks at the first block of a segment.
    ///
    /// # Panics
    /// If `block` is shorter than that.
    pub fn look(&mut self, segment: SegmentId, block: &[u8]) {
        if let Some(head) = SegmentHeader::decode_any(block, segment).filter(counts) {
            self.heads.entry(head.uuid).or_default().push(head);
        }
    }

    /// Returns a superblock, of a run that was never heard of: recovery learns the epoch, and where
    /// it started, from the log (D6). `None` if there is no header.
    ///
    /// The log starts with the first of the segments that reach to its end without a gap: how far
    /// its front was freed stood in the superblock alone, if no segment was begun since. Were a
    /// segment missing in between that is still needed, what follows would contradict itself.
    pub fn superblock(self) -> Option<Rebuilt> {
        let most = self.heads.into_iter().max_by_key(|(uuid, heads)| (heads.len(), *uuid));
        let (uuid, heads) = most?;
        let chains: BTreeSet<u64> = heads.iter().map(|head| head.chain).collect();
        let least = heads.iter().map(|head| head.first_needed).max()?;
        let mut first_needed = *chains.last()?;
        while first_needed > least && chains.contains(&(first_needed - 1)) {
            first_needed -= 1;
        }
        let superblock = Superblock::rebuilt(self.geometry, self.medium, uuid, first_needed);
        let missing = (least < first_needed).then(|| (least, first_needed - 1));
        Some(Rebuilt { superblock, missing })
    }
}
