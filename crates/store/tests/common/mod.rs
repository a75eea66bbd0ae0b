//! A store over plain memory: frames, a medium that is a copy of them, and a model to compare with.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout, reason = "each test uses a part")]

use impasto_region::{
    Checksum, Extent, Frames, Span,
    layout::{Geometry, MediumKind, Superblock},
};
use impasto_store::{
    Answer, Applied, Commit, Corruption, Effect, FramesSink, Recovered, Recovery, Refusal, Request,
    Step, Store, Value,
};

pub(crate) const MIB: u64 = 1 << 20;

/// What a crash leaves.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) superblock: Superblock,
}

impl Image {
    pub(crate) fn fresh(mib: u64, medium: MediumKind) -> Self {
        let superblock = Superblock::fresh(Geometry::new(mib * MIB).unwrap(), medium);
        Self { bytes: vec![0; usize::try_from(mib * MIB).unwrap()], superblock }
    }

    pub(crate) fn slice(&mut self, span: Span) -> &mut [u8] {
        let start = usize::try_from(span.at).unwrap();
        &mut self.bytes[start..start + usize::try_from(span.len).unwrap()]
    }

    pub(crate) fn recover(&self) -> Result<(Frames, Recovered), Corruption> {
        self.recover_on(self.superblock.medium)
    }

    pub(crate) fn recover_on(&self, medium: MediumKind) -> Result<(Frames, Recovered), Corruption> {
        self.recover_from(Recovery::new(self.superblock).on(medium))
    }

    /// As if the other superblock were damaged.
    pub(crate) fn recover_beside_damage(&self) -> Result<(Frames, Recovered), Corruption> {
        self.recover_from(Recovery::new(self.superblock).beside_damage())
    }

    fn recover_from(&self, mut recovery: Recovery) -> Result<(Frames, Recovered), Corruption> {
        let geometry = self.superblock.geometry;
        let mut frames = Frames::anonymous(geometry, 0).unwrap();
        while let Step::Read(spans) = recovery.step(&frames)? {
            for span in spans {
                let start = usize::try_from(span.at).unwrap();
                let end = start + usize::try_from(span.len).unwrap();
                frames.store(span.at, &self.bytes[start..end]);
            }
        }
        let recovered = recovery.finish(&frames)?;
        Ok((frames, recovered))
    }
}

/// A served region whose medium completes only when told to.
pub(crate) struct Rig {
    pub(crate) frames: Frames,
    pub(crate) store: Store,
    pub(crate) image: Image,
}

impl Rig {
    pub(crate) fn new(mib: u64, medium: MediumKind) -> Self {
        Self::open(Image::fresh(mib, medium)).unwrap()
    }

    pub(crate) fn open(image: Image) -> Result<Self, Corruption> {
        let medium = image.superblock.medium;
        Self::open_on(image, medium)
    }

    pub(crate) fn open_on(mut image: Image, medium: MediumKind) -> Result<Self, Corruption> {
        let (frames, recovered) = image.recover_on(medium)?;
        image.superblock = recovered.superblock;
        Ok(Self { frames, store: recovered.into_store(), image })
    }

    /// Stops as a crash does: what was not persisted is gone.
    pub(crate) fn reopen(self) -> Result<Self, Corruption> {
        Self::open(self.image)
    }

    pub(crate) fn apply(&mut self, request: Request<'_>, value: &[u8]) -> Applied {
        self.store.apply(request, &mut FramesSink::new(&mut self.frames, value))
    }

    pub(crate) fn effect(&mut self, request: Request<'_>, value: &[u8]) -> Effect {
        loop {
            match self.apply(request, value) {
                Applied::Done(effect) => return effect,
                Applied::Wait => self.commit(),
                Applied::Needs(load) => {
                    let found = self.store.found().to_vec();
                    let mut sum = Checksum::new();
                    for extent in found {
                        let bytes = self.image.slice(extent.span()).to_vec();
                        self.frames.store(extent.span().at, &bytes);
                        sum.update(&bytes);
                    }
                    assert_eq!(sum.value(), load.checksum, "a stored value verifies");
                    self.store.loaded(load);
                }
            }
        }
    }

    pub(crate) fn append(&mut self, log: &str, value: &[u8]) -> Result<u64, Refusal> {
        let (len, checksum) = (u32::try_from(value.len()).unwrap(), Checksum::of(value));
        let request = Request::Append { log, value: Value::Inline { len, checksum } };
        self.effect(request, value).answer.map(|answer| match answer {
            Answer::Appended { seq } => seq,
            other => panic!("an append was answered {other:?}"),
        })
    }

    /// Appends a long body: reserved, placed, durable before its record is.
    pub(crate) fn append_long(&mut self, log: &str, value: &[u8]) -> Result<u64, Refusal> {
        let mut extents = Vec::new();
        self.store.reserve(u32::try_from(value.len()).unwrap(), &mut extents)?;
        let appended = self.append_reserved(log, &extents, value);
        if appended.is_err() {
            self.store.unreserve(&extents);
        }
        appended
    }

    /// Places a body in its extents, makes it durable, and appends it.
    pub(crate) fn append_reserved(
        &mut self,
        log: &str,
        extents: &[Extent],
        value: &[u8],
    ) -> Result<u64, Refusal> {
        let mut rest = value;
        for extent in extents {
            let (part, left) = rest.split_at(extent.len as usize);
            self.frames.store(extent.span().at, part);
            self.image.slice(extent.span()).copy_from_slice(part);
            rest = left;
        }
        let value = Value::Kept { extents, checksum: Checksum::of(value) };
        self.effect(Request::Append { log, value }, &[]).answer.map(|answer| match answer {
            Answer::Appended { seq } => seq,
            other => panic!("an append was answered {other:?}"),
        })
    }

    pub(crate) fn read(&mut self, log: &str, seq: u64) -> Result<Vec<u8>, Refusal> {
        self.effect(Request::Read { log, seq }, &[]).answer.map(|_| {
            let found: Vec<Extent> = self.store.found().to_vec();
            found.iter().flat_map(|extent| self.frames.bytes(extent.span()).to_vec()).collect()
        })
    }

    pub(crate) fn trim(&mut self, log: &str, before: u64) -> Result<Answer, Refusal> {
        self.effect(Request::Trim { log, before }, &[]).answer
    }

    pub(crate) fn seal(&mut self) -> Option<Commit> {
        let mut sink = FramesSink::new(&mut self.frames, &[]);
        self.store.reclaim(&mut sink);
        self.store.seal(&mut sink)
    }

    /// Copies a commit to the medium.
    pub(crate) fn persist(&mut self, commit: Commit) {
        let bytes = self.frames.bytes(commit.span).to_vec();
        self.image.slice(commit.span).copy_from_slice(&bytes);
    }

    /// Seals, persists and completes everything, superblocks included.
    pub(crate) fn commit(&mut self) {
        if let Some(commit) = self.seal() {
            self.persist(commit);
            self.store.completed(commit.id, true);
        }
        if let Some(superblock) = self.store.superblock_wanted() {
            self.image.superblock = superblock;
            self.store.superblock_durable(superblock.generation);
        }
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let before = self.store.last_lsn();
            self.commit();
            let rests = !self.store.is_freeing() && self.store.open_bytes() == 0;
            if rests && self.store.last_lsn() == before {
                return;
            }
        }
        panic!("reclamation does not come to an end");
    }
}

/// A small generator, so that a failing run can be repeated.
pub(crate) struct Random(u64);

impl Random {
    /// Takes the seed from `IMPASTO_SEED`, else `seed`, and says so.
    pub(crate) fn new(seed: u64) -> Self {
        let seed = std::env::var("IMPASTO_SEED").map_or(seed, |text| text.parse().unwrap());
        println!("IMPASTO_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub(crate) fn bytes_below(&mut self, end: u64) -> Vec<u8> {
        let len = self.below(end);
        self.bytes(len)
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}
