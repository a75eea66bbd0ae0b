//! Simulated devices and memory with power that fails.
//!
//! [`SimDev`] and [`SimLines`] stand behind the two seams of `impasto_media`, so that the loop, the
//! store and the media that a crash is simulated in are the ones that a user runs. [`Power`] counts
//! the *sites* at which a crash can make a difference, and fails at the one that was chosen. The
//! server goes on after that and does not notice; what it does from then on is not durable. `crash`
//! then returns an image of the region as the next start may find it: what is durable for sure, and
//! of the rest what [`Fate`] says.
//!
//! Everything follows from seeds. The fault models stand at the top of each file.
//!
//! ```
//! use impasto_media::{CommitId, Medium, Pmem};
//! use impasto_region::{Frames, Span, layout::{Geometry, MediumKind}};
//! use impasto_sim::{Fate, Power, SimLines, fill};
//!
//! let image = vec![0; 16 << 20];
//! let geometry = Geometry::new(16 << 20).expect("a region may have 16 MiB");
//! let mut frames = Frames::anonymous(geometry, 0)?;
//! fill(&mut frames, &image);
//!
//! let power = Power::new();
//! let lines = SimLines::new(image, power.clone());
//! let mut pmem = Pmem::new(lines.clone(), MediumKind::Pmem);
//!
//! power.cut_at(3); // after flush, fence and flush: the second commit never becomes durable
//! frames.store(4096, b"one");
//! pmem.commit(&mut (), &frames, CommitId(0), Span::new(4096, 64), &[]);
//! frames.store(8192, b"two");
//! pmem.commit(&mut (), &frames, CommitId(1), Span::new(8192, 64), &[]);
//!
//! let found = lines.crash(Fate::Nothing, &frames);
//! assert_eq!(&found[4096..4099], b"one");
//! assert_eq!(found[8192], 0);
//! # Ok::<(), std::io::Error>(())
//! ```

#![forbid(unsafe_code)]

mod dev;
mod lines;
mod platter;
mod power;
mod rng;

pub use dev::SimDev;
pub use lines::SimLines;
pub use platter::{Atom, Cache, Model};
pub use power::Power;
pub use rng::Rng;

use std::ops::Range;

use impasto_region::{Frames, Span};

/// What a crash leaves of the bytes that are not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Nothing,
    /// All of it, the newest of each.
    Everything,
    /// For each atom one of all that may be, by this seed.
    Seeded(u64),
}

/// Makes `image` the region's bytes in `frames`, as mapping a region does.
///
/// # Panics
/// If some of these bytes are on loan.
pub fn fill(frames: &mut Frames, image: &[u8]) {
    frames.store(0, image);
}

/// Returns the indexes of `span` in an image.
fn range(span: Span) -> Range<usize> {
    let index = |at| usize::try_from(at).expect("an image fits memory");
    index(span.at)..index(span.end())
}
