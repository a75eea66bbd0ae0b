//! Each part of the path by itself, over the same packets.

use std::hint::black_box;

use impasto_media::{Event, Medium, Ticket};
use impasto_region::{Checksum, Extent, Span, layout::BUF_BYTES};
use impasto_ring::Port;
use serde::Serialize;

use super::{
    PACKETS_PER_TURN, State,
    rig::{Placer, Rig},
};
use crate::{Figure, measure::Clock};

/// A part of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Bytes that have arrived become slots, slots are looked at and given back, full buffers
    /// drain.
    HandOver,
    /// Landing buffers go, others come: the pool's share, and what keeps a buffer from it.
    Keep,
    /// Of the payload.
    Checksum,
    /// Lines of the payload that stays where it landed, and the fence behind them.
    Flush,
    /// Record and index; the value is copied, if it stands in the record.
    Append,
    /// Header and checksum of the log, its lines, the fence, what is durable.
    Commit,
}

impl Part {
    /// Returns what the part is called in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HandOver => "slot hand-over",
            Self::Keep => "keep (pool)",
            Self::Checksum => "checksum",
            Self::Flush => "flush of payload, fence",
            Self::Append => "record, index",
            Self::Commit => "commit, fence",
        }
    }
}

/// What a part takes for a packet.
#[derive(Clone, Debug, Serialize)]
pub struct PartFigure {
    /// The part.
    pub part: Part,
    /// Nanoseconds per packet.
    #[serde(flatten)]
    pub figure: Figure,
}

/// Measures every part.
pub(super) fn measure(rig: &mut Rig, clock: Clock, state: State) -> Vec<PartFigure> {
    let mut parts = vec![
        (Part::HandOver, rig.turns(clock, state, |_| {}, |rig, ()| hand_over(rig))),
        (Part::Keep, keep(rig, clock)),
        (Part::Checksum, rig.turns(clock, state, land, |rig, landed| landed.sum(rig))),
    ];
    if !rig.is_inline() {
        parts.push((Part::Flush, rig.turns(clock, state, land_and_touch, flush)));
    }
    parts.push((
        Part::Append,
        rig.turns(clock, state, land_and_touch, |rig, landed| landed.append(rig)),
    ));
    let appended = |rig: &mut Rig| land_and_touch(rig).append(rig);
    parts.push((Part::Commit, rig.turns(clock, state, appended, |rig, ()| commit(rig))));
    finish(rig);
    parts.into_iter().map(|(part, figure)| PartFigure { part, figure }).collect()
}

/// Measures records and their commit together.
pub(super) fn append_and_commit(rig: &mut Rig, clock: Clock, state: State) -> Figure {
    let both = |rig: &mut Rig, landed: Landed| {
        landed.append(rig);
        commit(rig);
    };
    rig.turns(clock, state, land_and_touch, both)
}

/// What the ring and the port do, and nobody else.
fn hand_over(rig: &mut Rig) {
    rig.arrive();
    while let Some(extent) = rig.advance() {
        black_box(extent);
    }
    rig.ring().release();
    while let Some(buf) = Port::<()>::drained(&mut rig.port) {
        rig.port.provide(&mut (), &mut rig.frames, buf);
    }
}

/// A packet's share of exchanging a landing buffer.
fn keep(rig: &mut Rig, clock: Clock) -> Figure {
    const TIMES: usize = 256;
    let per_packet = f64::from(rig.len) / f64::from(BUF_BYTES);
    let exchange = clock.each(64, TIMES, || {
        for _ in 0..TIMES {
            let buf = rig.store.take_landing(false).expect("the region has room to land in");
            rig.store.return_landing(black_box(buf));
        }
    });
    exchange.map(|ns| ns * per_packet)
}

fn flush(rig: &mut Rig, landed: Landed) {
    rig.medium.persist(&mut (), &rig.frames, Ticket(0), &landed.runs());
    let event = Medium::<()>::poll(&mut rig.medium, &mut (), &mut rig.frames);
    assert!(matches!(event, Some(Event::Persisted(..))), "it is durable");
}

fn commit(rig: &mut Rig) {
    rig.store.reclaim(&mut Placer { frames: &mut rig.frames, value: &[] });
    rig.commit_log(false);
}

/// The packets of a turn, where they landed.
struct Landed {
    extents: Vec<Extent>,
    sums: Vec<u64>,
}

/// The packets of a turn land; nobody has looked at them. What the last turn has left is done.
fn land(rig: &mut Rig) -> Landed {
    finish(rig);
    rig.arrive();
    let mut extents = Vec::with_capacity(2 * PACKETS_PER_TURN);
    extents.extend(std::iter::from_fn(|| rig.advance()));
    Landed { extents, sums: Vec::new() }
}

/// As [`land`]; they are in the cache, as after the checksum.
fn land_and_touch(rig: &mut Rig) -> Landed {
    let mut landed = land(rig);
    let bytes = |extent: &Extent| Checksum::of(rig.frames.bytes(extent.span()));
    landed.sums = landed.extents.iter().map(bytes).collect();
    landed
}

/// Ends what a turn has left, as the path's turn does.
fn finish(rig: &mut Rig) {
    rig.ring().release();
    rig.reclaim();
    rig.commit_log(false);
    rig.provide();
}

impl Landed {
    fn sum(self, rig: &mut Rig) {
        let mut sum = Checksum::new();
        let mut left = rig.len;
        for extent in &self.extents {
            sum.update(rig.frames.bytes(extent.span()));
            left -= extent.len;
            if left == 0 {
                black_box(std::mem::take(&mut sum).value());
                left = rig.len;
            }
        }
    }

    fn append(self, rig: &mut Rig) {
        let (mut start, mut left) = (0, rig.len);
        for (at, extent) in self.extents.iter().enumerate() {
            left -= extent.len;
            if left == 0 {
                rig.append_of(&self.extents[start..=at], self.sums[at]);
                (start, left) = (at + 1, rig.len);
            }
        }
    }

    /// Returns the bytes that lie one behind the other as one span, as the medium flushes them.
    fn runs(&self) -> Vec<Span> {
        let mut runs: Vec<Span> = Vec::with_capacity(2);
        for span in self.extents.iter().map(|extent| extent.span()) {
            match runs.last_mut() {
                Some(run) if run.end() == span.at => run.len += span.len,
                _ => runs.push(span),
            }
        }
        runs
    }
}
