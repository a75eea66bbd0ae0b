//! Memory that survives, behind a CPU cache that does not.
//!
//! Fault model. The unit is the line of 64 bytes, the atom its aligned word of 8. [`Frames`] are
//! the *live* image; the *durable* image is kept here. Nobody announces a store: it is seen when
//! the images are compared.
//! - A flush takes a *snapshot* of its lines, a fence makes the snapshots durable that the same CPU
//!   took before, and so the older ones of the same lines: a line is written back in one order. It
//!   says nothing about what another CPU has flushed ([`SimLines::run_on`]).
//! - After a crash each word is what is durable, or any snapshot that was not fenced, or what was
//!   live at the cut: evictions happen at any time and in any order, and tear lines.
//! - Stores after the cut are not live at the cut: it is copied when the site of the cut is passed.
//!
//! Not modelled: a word that was evicted between two stores to it without a flush between them (of
//! such words only the last store may survive); poisoned lines; bytes of a loaned buffer that have
//! not landed (they keep their durable value: nothing can name them).

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use impasto_media::Lines;
use impasto_region::{
    Frames, Span,
    layout::{BLOCK_BYTES, BUF_BYTES},
};

use crate::{Fate, Power, Rng, range, rng::survival};

/// The lines of one simulated memory; clones are the same memory.
#[derive(Clone, Debug)]
pub struct SimLines(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    power: Power,
    durable: Vec<u8>,
    /// By offset of the line: what was flushed and not fenced, in order, and by which CPU.
    flushed: BTreeMap<u64, Vec<(usize, Line)>>,
    /// The CPU that flushes and fences now.
    cpu: usize,
    /// The live image at the cut.
    at_cut: Option<Vec<u8>>,
}

type Line = [u8; LINE_BYTES];

const LINE_BYTES: usize = 64;
const WORD_BYTES: usize = 8;
/// Lines of a page share their likelihood to survive, so that a commit and its payload often do
/// not.
const PAGE_BYTES: usize = 4096;

impl SimLines {
    /// Returns a memory that holds `image`; the frames used with it have to hold the same, see
    /// [`fill`](crate::fill).
    ///
    /// # Panics
    /// If `image` is not whole pages.
    pub fn new(image: Vec<u8>, power: Power) -> Self {
        assert!(image.len().is_multiple_of(LINE_BYTES), "memory is whole lines");
        let flushed = BTreeMap::new();
        let (cpu, at_cut) = (0, None);
        Self(Rc::new(RefCell::new(State { power, durable: image, flushed, cpu, at_cut })))
    }

    /// Whatever comes now is done by this CPU; returns the one that did what came before.
    pub fn run_on(&self, cpu: usize) -> usize {
        std::mem::replace(&mut self.0.borrow_mut().cpu, cpu)
    }

    /// Returns the region as the next start may find it. If the power has not been cut, it is cut
    /// now, for this answer only.
    ///
    /// `frames` count if no flush or fence has come since [`Power::cut`]; else what they held at
    /// the cut.
    pub fn crash(&self, fate: Fate, frames: &Frames) -> Vec<u8> {
        let state = self.0.borrow();
        let now;
        let live = match &state.at_cut {
            Some(live) => live,
            None => {
                now = state.live(frames);
                &now
            }
        };
        match fate {
            Fate::Nothing => state.durable.clone(),
            Fate::Everything => live.clone(),
            Fate::Seeded(seed) => state.evict(live, seed),
        }
    }
}

impl Lines for SimLines {
    fn flush(&mut self, frames: &Frames, span: Span) {
        let mut state = self.0.borrow_mut();
        if !state.power.site() {
            state.cut(frames);
            return;
        }
        let (line_bytes, cpu) = (LINE_BYTES as u64, state.cpu);
        for index in span.at / line_bytes..span.end().div_ceil(line_bytes) {
            let at = Span::new(index * line_bytes, line_bytes);
            let mut line = [0; LINE_BYTES];
            line.copy_from_slice(&state.durable[range(at)]);
            copy_settled(frames, at, &mut line);
            state.flushed.entry(at.at).or_default().push((cpu, line));
        }
    }

    fn fence(&mut self, frames: &Frames) {
        let mut state = self.0.borrow_mut();
        if !state.power.site() {
            state.cut(frames);
            return;
        }
        let State { durable, flushed, cpu, .. } = &mut *state;
        flushed.retain(|at, snapshots| {
            if let Some(newest) = snapshots.iter().rposition(|(by, _)| by == cpu) {
                let line = range(Span::new(*at, LINE_BYTES as u64));
                durable[line].copy_from_slice(&snapshots[newest].1);
                snapshots.drain(..=newest);
            }
            !snapshots.is_empty()
        });
    }
}

impl State {
    fn cut(&mut self, frames: &Frames) {
        if self.at_cut.is_none() {
            self.at_cut = Some(self.live(frames));
        }
    }

    fn live(&self, frames: &Frames) -> Vec<u8> {
        let mut live = self.durable.clone();
        let end = live.len() as u64;
        let mut at = 0;
        while at < end {
            // Superblock, then buffer by buffer: a loaned buffer is settled up to its mark.
            let len = if at == 0 { BLOCK_BYTES } else { u64::from(BUF_BYTES) };
            let span = Span::new(at, len.min(end - at));
            copy_settled(frames, span, &mut live[range(span)]);
            at = span.end();
        }
        live
    }

    fn evict(&self, live: &[u8], seed: u64) -> Vec<u8> {
        let mut rng = Rng::new(seed);
        let mut image = self.durable.clone();
        for page_at in (0..image.len() as u64).step_by(PAGE_BYTES) {
            let page = Span::new(page_at, PAGE_BYTES as u64);
            let is_flushed = self.flushed.range(page_at..page.end()).next().is_some();
            if !is_flushed && image[range(page)] == live[range(page)] {
                continue;
            }
            let likely = survival(seed, page_at);
            for at in (page_at..page.end()).step_by(LINE_BYTES) {
                let line = range(Span::new(at, LINE_BYTES as u64));
                let snapshots = self.flushed.get(&at).into_iter().flatten();
                let mut candidates: Vec<&[u8]> = snapshots.map(|(_, line)| &line[..]).collect();
                candidates.push(&live[line.clone()]);
                evict_line(&mut rng, likely, &candidates, &mut image[line]);
            }
        }
        image
    }
}

/// Overwrites words of `line` with those of `candidates`: one line in three is torn, the others are
/// whole.
fn evict_line(rng: &mut Rng, likely: u64, candidates: &[&[u8]], line: &mut [u8]) {
    let is_torn = rng.once_in(3);
    let mut evicted = choose(rng, likely, candidates);
    for word in (0..LINE_BYTES).step_by(WORD_BYTES) {
        let word = word..word + WORD_BYTES;
        if is_torn {
            evicted = choose(rng, likely, candidates);
        }
        if let Some(evicted) = evicted {
            line[word.clone()].copy_from_slice(&evicted[word]);
        }
    }
}

/// Returns one of `candidates`, or none, with a likelihood in sixteenths that it is one.
fn choose<'a>(rng: &mut Rng, likely: u64, candidates: &[&'a [u8]]) -> Option<&'a [u8]> {
    (rng.below(16) < likely).then(|| candidates[rng.index(candidates.len())])
}

/// Copies the bytes of `span` up to the first that someone may still write; `span` lies in one
/// buffer.
fn copy_settled(frames: &Frames, span: Span, into: &mut [u8]) {
    let prefix = |len| Span::new(span.at, len);
    let (mut settled, mut unsettled) = (0, span.len);
    if frames.is_settled(span) {
        settled = span.len;
    }
    while settled + 1 < unsettled {
        let middle = settled.midpoint(unsettled);
        if frames.is_settled(prefix(middle)) {
            settled = middle;
        } else {
            unsettled = middle;
        }
    }
    if settled > 0 {
        let bytes = frames.bytes(prefix(settled));
        into[..bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
