//! A record on its way to who asks for it.

use impasto_media::Medium;
use impasto_region::Extent;
use impasto_ring::Port;
use impasto_store::{Load, Lsn};

use crate::{
    Enter,
    bodies::parts,
    config::{COPY_BYTES_MAX, DIGESTED_BYTES_MAX},
    engine::Engine,
    flow::{Asked, Flow, Input, Parked},
    http::{
        Call, Extra, Fault, Problem, Record, Status, Verdict,
        digest::{Algorithm, digest_of},
        reply,
    },
    jobs::Job,
};

pub(crate) const DAMAGED: Fault =
    Fault::new(Status::InternalError, "the stored record is damaged").kind(Problem::Damaged);
const CHANGED: Fault =
    Fault::new(Status::PreconditionFailed, "the record is not one that If-Match names");
const BEYOND: Fault =
    Fault::new(Status::RangeNotSatisfiable, "the range is beyond the end of the record");

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Answers with the record that the store has found, on the terms of who asked.
    pub(crate) fn answer_found(&mut self, flow: &mut Flow, asked: Asked, lsn: Lsn, record: Record) {
        let Asked { link, skip, bodyless, .. } = asked;
        let verdict =
            asked.terms.as_ref().map_or(Verdict::Whole, |terms| terms.judge(record, !bodyless));
        let part = match verdict {
            Verdict::Whole => None,
            Verdict::Part(part) => Some(part),
            Verdict::NotModified => {
                self.reply(flow, lsn, &[], |out| reply::not_modified(out, record, link));
                return self.go_on(flow, link, skip);
            }
            Verdict::Failed => return self.refuse(flow, &asked, lsn, CHANGED),
            Verdict::Beyond => {
                let fault = BEYOND.with(Extra::Length(record.len));
                return self.refuse(flow, &asked, lsn, fault);
            }
        };
        let mut found = self.own.pools.extents();
        match part {
            None => found.extend_from_slice(self.core.store.found()),
            Some(part) => found.extend(parts(self.core.store.found(), part.first, part.last + 1)),
        }
        if self.core.jobs.reads_any(&found) {
            // The blocks around it are being read into their frames.
            flow.input = Input::Asked(asked);
            self.park(flow, Parked::Medium);
        } else {
            let len = part.map_or(record.len, |part| part.bytes());
            let wanted = asked.terms.as_ref().and_then(|terms| terms.wanted());
            // It is one of the fields that a HEAD may be answered without (RFC 9110, 9.3.2).
            let wanted = wanted.filter(|_| len <= DIGESTED_BYTES_MAX && !bodyless);
            self.own.made_bytes += if wanted.is_some() { u64::from(len) } else { 0 };
            let digest = wanted.map(|wanted| (wanted, self.digest(wanted, &found)));
            let digest = digest.as_ref().map(|(algorithm, value)| (*algorithm, value.as_str()));
            let copies = len <= COPY_BYTES_MAX;
            let stored = if bodyless || copies { &[][..] } else { &found };
            let mut copy = std::mem::take(&mut self.own.copy);
            if copies && !bodyless {
                self.copy_out(&found, &mut copy);
            }
            self.reply(flow, lsn, stored, |out| {
                reply::record(out, record, part, digest, link);
                out.append(&mut copy);
            });
            self.own.copy = copy;
            self.go_on(flow, link, skip);
        }
        self.own.pools.give_extents(found);
    }

    /// Appends the bytes of `extents` to `out`.
    pub(crate) fn copy_out(&self, extents: &[Extent], out: &mut Vec<u8>) {
        for extent in extents {
            out.extend_from_slice(self.core.frames.bytes(extent.span()));
        }
    }

    fn digest(&self, algorithm: Algorithm, extents: &[Extent]) -> String {
        let pieces = extents.iter().map(|extent| self.core.frames.bytes(extent.span()));
        digest_of(algorithm, pieces)
    }

    /// Starts bringing the record that the store has found to where it can be sent from.
    pub(crate) fn load(&mut self, flow: &mut Flow, asked: Asked, load: Load) {
        let (mut loads, mut extents) = (self.own.pools.loads(), self.own.pools.extents());
        extents.extend_from_slice(self.core.store.found());
        loads.push((load, extents.len()));
        self.load_all(flow, asked, loads, extents);
    }

    /// Starts bringing records to where they can be sent from: each with the number of its
    /// extents.
    pub(crate) fn load_all(
        &mut self,
        flow: &mut Flow,
        asked: Asked,
        loads: Vec<(Load, usize)>,
        extents: Vec<Extent>,
    ) {
        flow.input = Input::Asked(asked);
        if self.core.jobs.reads_any(&extents) {
            self.own.pools.give_extents(extents);
            self.own.pools.give_loads(loads);
            return self.park(flow, Parked::Medium);
        }
        self.core.store.pin(&extents);
        let spans = self.core.jobs.spans(extents.iter().copied());
        let ticket = self.core.jobs.start(Job::Load(self.whose(flow), loads, extents));
        self.core.medium.read(&mut self.own.io, &mut self.core.frames, ticket, &spans);
        self.core.jobs.give_spans(spans);
        self.park(flow, Parked::Job);
    }

    /// Records are where they can be sent from, but for `damaged` and those behind it.
    pub(crate) fn loaded(&mut self, flow: &mut Flow, damaged: Option<u64>) {
        let (Some(Parked::Job), Input::Asked(asked)) = (flow.parked, &mut flow.input) else {
            return;
        };
        asked.damaged = damaged;
        if damaged.is_some() && matches!(asked.call, Call::Read(..)) {
            let Asked { link, bodyless, skip, .. } = *asked;
            self.answer_fault(flow, DAMAGED, link, bodyless);
            flow.parked = None;
            self.go_on(flow, link, skip);
            if flow.parked.is_some() {
                return;
            }
        }
        self.unpark(flow);
    }
}
