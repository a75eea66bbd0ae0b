//! What a packet goes through, put together as the server does, without a server.

use impasto_media::{CommitId, CpuLines, Event, Medium, Pmem, Profile};
use impasto_region::{
    Checksum, CpuFlush, Extent, Frames, Span,
    layout::{BUF_BYTES, Geometry, MediumKind, SEGMENT_BYTES, Superblock},
};
use impasto_ring::{FlowId, LoopPort, Port, Ring, What};
use impasto_store::{Applied, Recovery, Request, Sink, Step, Store, Value};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use super::{PACKETS_PER_TURN, PathOptions, State, TURNS_PER_SAMPLE};
use crate::{BudgetError, Figure, Machine, measure::Clock};

/// Port, store, medium and their memory.
pub(super) struct Rig {
    pub(super) frames: Frames,
    pub(super) port: LoopPort,
    pub(super) store: Store,
    pub(super) medium: Pmem<CpuLines>,
    pub(super) flow: FlowId,
    /// Bytes of a packet.
    pub(super) len: u32,
    pub(super) profile: Profile,
    /// How many packets are gone through.
    pub(super) packets: usize,
    /// What cards write.
    payload: Vec<u8>,
    /// Where the packet that is being put together has landed.
    extents: Vec<Extent>,
}

/// What all packets go to.
pub(super) const LOG: &str = "frames";
/// Records of the log, before it is emptied.
const RECORDS_MAX: usize = 256 << 10;
/// What a record takes of the log besides a value that stands in it, and of padding: at most.
const RECORD_BYTES: u64 = 64;

impl Rig {
    /// Makes a region of memory without a name, and fills its landing buffers.
    pub(super) fn new(machine: &Machine, options: PathOptions) -> Result<Self, BudgetError> {
        if !CpuFlush::is_supported() {
            return Err(BudgetError::NoFlush);
        }
        let len = options.frame.memory_bytes();
        let medium = Pmem::new(CpuLines::detect(), MediumKind::Shm);
        let profile = Medium::<()>::profile(&medium);
        let sample = (PACKETS_PER_TURN * TURNS_PER_SAMPLE) as u64 * u64::from(len);
        let bytes = options.bytes.max(2 * sample);
        let landing = bytes.div_ceil(u64::from(BUF_BYTES)) + 1;
        let kept = if len > profile.inline_max { 2 * bytes } else { 0 };
        let inline = if len > profile.inline_max { 0 } else { u64::from(len) };
        let log = RECORDS_MAX as u64 * (inline + RECORD_BYTES);
        // A landing buffer in which something is kept has another one set aside (D10).
        let region = (2 * landing * u64::from(BUF_BYTES) + kept + log + (16 << 20))
            .next_multiple_of(SEGMENT_BYTES);
        let (mut frames, store) = open(machine, region)?;
        let mut port = LoopPort::new((4 * PACKETS_PER_TURN).next_power_of_two());
        let flow = port.peer().open().expect("the port accepts");
        Port::<()>::receive(&mut port, &mut (), &mut frames);
        let _open = Port::<()>::ring(&mut port).advance();
        Port::<()>::ring(&mut port).release();
        let payload = (0..1 << 20).map(|n: u32| n.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]);
        let packets = usize::try_from(bytes / u64::from(len)).expect("packets in memory");
        let mut rig = Self {
            frames,
            port,
            store,
            medium,
            flow,
            len,
            profile,
            packets,
            payload: payload.collect(),
            extents: Vec::new(),
        };
        for n in 0..landing {
            let buf = rig.store.take_landing(n == 0).expect("the region has room to land in");
            rig.port.provide(&mut (), &mut rig.frames, buf);
        }
        Ok(rig)
    }

    /// Returns true if a packet's bytes stand in its record.
    pub(super) fn is_inline(&self) -> bool {
        self.len <= self.profile.inline_max
    }

    /// Measures a packet's path, over all packets.
    pub(super) fn measure(&mut self, clock: Clock, state: State) -> Figure {
        self.turns(clock, state, |_| {}, |rig, ()| rig.turn())
    }

    /// Takes all packets, a turn at a time, and returns what `turn` takes for each of them. What
    /// `prepare` does before it is not counted, and neither is a first quarter: tables grow to
    /// their size.
    pub(super) fn turns<T>(
        &mut self,
        clock: Clock,
        state: State,
        mut prepare: impl FnMut(&mut Self) -> T,
        mut turn: impl FnMut(&mut Self, T),
    ) -> Figure {
        let per_sample = PACKETS_PER_TURN * TURNS_PER_SAMPLE;
        let samples = (self.packets / per_sample).max(2);
        let mut figures = Vec::with_capacity(samples);
        let (mut ready, mut records) = (0, 0);
        for sample in 0..samples + samples.div_ceil(4) {
            if records + per_sample > RECORDS_MAX {
                self.empty();
                records = 0;
            }
            records += per_sample;
            if state == State::Cold && ready < per_sample {
                ready += self.deposit_all();
            }
            let mut ns = 0.0;
            for _ in 0..TURNS_PER_SAMPLE {
                if state == State::Warm {
                    self.deposit_turn();
                }
                let prepared = prepare(self);
                ns += clock.time(|| turn(self, prepared));
            }
            ready = ready.saturating_sub(per_sample);
            if sample >= samples.div_ceil(4) {
                figures.push(ns / per_sample as f64);
            }
        }
        self.take_rest(ready);
        self.empty();
        Figure::of(figures)
    }

    pub(super) fn ring(&mut self) -> &mut Ring {
        Port::<()>::ring(&mut self.port)
    }

    /// The packets of a turn arrive: the port makes slots of them.
    pub(super) fn arrive(&mut self) {
        for _ in 0..PACKETS_PER_TURN {
            self.port.arrive(&mut self.frames, self.flow, self.len);
        }
    }

    /// Returns where the next packet's next bytes are.
    pub(super) fn advance(&mut self) -> Option<Extent> {
        let slot = self.ring().advance()?;
        let What::Data(extent) = slot.what else { unreachable!("only packets arrive") };
        Some(extent)
    }

    /// One turn: what has arrived becomes slots, records, a commit, and room for more.
    fn turn(&mut self) {
        self.arrive();
        let mut sum = Checksum::new();
        let mut left = self.len;
        while let Some(extent) = self.advance() {
            sum.update(self.frames.bytes(extent.span()));
            self.extents.push(extent);
            left -= extent.len;
            if left == 0 {
                let checksum = std::mem::take(&mut sum).value();
                self.append(checksum);
                self.extents.clear();
                left = self.len;
            }
        }
        self.ring().release();
        self.reclaim();
        self.commit();
        self.provide();
    }

    /// Appends the packet that stands in `extents`.
    fn append(&mut self, checksum: u64) {
        let extents = std::mem::take(&mut self.extents);
        self.append_of(&extents, checksum);
        self.extents = extents;
    }

    /// Appends the packet that stands in `extents`; a full commit is sealed first.
    pub(super) fn append_of(&mut self, extents: &[Extent], checksum: u64) {
        let value = if self.is_inline() {
            Value::Inline { len: self.len, checksum }
        } else {
            Value::Kept { extents, checksum }
        };
        loop {
            let mut placer = Placer { frames: &mut self.frames, value: extents };
            match self.store.apply(Request::Append { log: LOG, value }, &mut placer) {
                Applied::Done(effect) => {
                    assert!(effect.answer.is_ok(), "the region has room: {effect:?}");
                    return;
                }
                Applied::Wait => self.commit(),
                Applied::Needs(_) => unreachable!("an append reads nothing"),
            }
        }
    }

    /// Seals what is open and makes it durable (D1, D8).
    pub(super) fn commit(&mut self) {
        self.commit_log(true);
    }

    /// As [`commit`](Self::commit); without the payload that landed, if not `with_payload`.
    pub(super) fn commit_log(&mut self, with_payload: bool) {
        let mut placer = Placer { frames: &mut self.frames, value: &[] };
        if let Some(commit) = self.store.seal(&mut placer) {
            let id = CommitId(commit.id);
            let kept = if with_payload { self.store.kept() } else { &[] };
            self.medium.commit(&mut (), &self.frames, id, commit.span, kept);
        }
        while let Some(event) = Medium::<()>::poll(&mut self.medium, &mut (), &mut self.frames) {
            let Event::Committed(id, result) = event else { unreachable!("only commits") };
            self.store.completed(id.0, result.is_ok());
        }
    }

    /// Moves what keeps the log from shrinking.
    pub(super) fn reclaim(&mut self) {
        self.store.reclaim(&mut Placer { frames: &mut self.frames, value: &[] });
        if let Some(superblock) = self.store.superblock_wanted() {
            self.store.superblock_durable(superblock.generation);
        }
    }

    /// Gives the port other buffers for those that are drained: what is kept in them stays.
    pub(super) fn provide(&mut self) {
        while let Some(buf) = Port::<()>::drained(&mut self.port) {
            self.store.return_landing(buf);
            let next = self.store.take_landing(false).expect("the region has room to land in");
            self.port.provide(&mut (), &mut self.frames, next);
        }
    }

    /// Writes packets into all buffers that are free, and returns how many.
    fn deposit_all(&mut self) -> usize {
        let mut bytes = 0;
        loop {
            let count = self.port.deposit(&self.payload);
            bytes += count;
            if count < self.payload.len() {
                return bytes / self.len as usize;
            }
        }
    }

    /// Writes the packets of the next turn.
    fn deposit_turn(&mut self) {
        let bytes = PACKETS_PER_TURN * self.len as usize;
        let room = self.port.deposit(&self.payload[..bytes]);
        assert_eq!(room, bytes, "there is room for a turn");
    }

    /// Takes packets that were deposited and not measured off the port.
    fn take_rest(&mut self, packets: usize) {
        for _ in 0..packets / PACKETS_PER_TURN {
            self.arrive();
            while self.advance().is_some() {}
            self.ring().release();
            self.provide();
        }
    }

    /// Trims all records, and frees what they held.
    fn empty(&mut self) {
        self.commit();
        let mut placer = Placer { frames: &mut self.frames, value: &[] };
        self.store.apply(Request::Trim { log: LOG, before: u64::MAX }, &mut placer);
        self.commit();
        while self.store.is_freeing() {
            self.reclaim();
        }
        // The segments that have died by now, and then those that wait for a superblock.
        for _ in 0..3 {
            self.reclaim();
            self.commit();
        }
    }
}

/// Returns a region that is all there, in memory, and its store.
fn open(machine: &Machine, bytes: u64) -> Result<(Frames, Store), BudgetError> {
    machine.room_for(bytes)?;
    let geometry = Geometry::new(bytes).expect("whole segments, not too many");
    let file = memfd_create("impasto-budget", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(std::io::Error::from)?;
    let mut frames = Frames::shared(&file, geometry)?;
    let zeroes = vec![0; usize::try_from(SEGMENT_BYTES).expect("1 MiB")];
    for at in (0..bytes).step_by(zeroes.len()) {
        frames.store(at, &zeroes);
    }
    let mut recovery = Recovery::new(Superblock::fresh(geometry, MediumKind::Shm));
    // All of it is there, and zeroes.
    while let Step::Read(_) = recovery.step(&frames).expect("an empty region is whole") {}
    let recovered = recovery.finish(&frames).expect("an empty region is whole");
    Ok((frames, recovered.into_store()))
}

/// Puts record bytes into the frames, as the server does.
pub(super) struct Placer<'a> {
    pub(super) frames: &'a mut Frames,
    pub(super) value: &'a [Extent],
}

impl Sink for Placer<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.frames.store(at, bytes);
    }

    fn put_value(&mut self, at: u64) {
        let mut to = at;
        for extent in self.value {
            self.frames.copy(extent.span(), to);
            to += u64::from(extent.len);
        }
    }

    fn sum(&self, span: Span, sum: &mut Checksum) {
        sum.update(self.frames.bytes(span));
    }
}
