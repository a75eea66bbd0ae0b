//! From requests to replies.

use impasto_media::Medium;
use impasto_ring::Port;
use impasto_store::{Answer, Applied, Effect, Load, Lsn, Refusal, Request, Value};

use crate::{
    Enter,
    config::COPY_BYTES_MAX,
    engine::Engine,
    flow::{Asked, Body, Flow, Input, Listing, Parked, Place},
    http::{Call, Fault, Link, Status, reply},
    jobs::Job,
    placer::Arrived,
};

const DAMAGED: Fault = Fault::new(Status::InternalError, "the stored record is damaged");

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Applies an append whose body is complete. `whole` is the body if it has no place yet.
    pub(crate) fn append(&mut self, flow: &mut Flow, mut body: Body, whole: Arrived<'_>) {
        let effect = match self.apply_append(&body, whole) {
            Applied::Done(Effect { answer: Err(Refusal::NoSpace), .. })
                if self.space_may_come(&mut body.wait) =>
            {
                None
            }
            Applied::Done(effect) => Some(effect),
            Applied::Wait | Applied::Needs(_) => None,
        };
        let Some(effect) = effect else {
            if !whole.is_empty() {
                self.put_piece(&mut body, 0, whole);
            }
            flow.input = Input::Whole(body);
            self.park(flow, Parked::Medium);
            return;
        };
        let Body { log, link, .. } = body;
        match effect.answer {
            Ok(Answer::Appended { seq }) => {
                self.recycle_place(body.place);
                let write = |out: &mut Vec<u8>| reply::created(out, &log, seq, link);
                self.reply(flow, effect.lsn, &[], write);
            }
            Ok(_) => unreachable!("an append is answered as one"),
            Err(refusal) => {
                self.drop_place(body.place);
                self.answer_fault_at(flow, effect.lsn, reply::fault(refusal), link, false);
            }
        }
        self.go_on(flow, link, 0);
    }

    fn apply_append(&mut self, body: &Body, whole: Arrived<'_>) -> Applied {
        let (log, len, checksum) = (body.log.as_str(), body.len, body.sum.value());
        let inline = Value::Inline { len, checksum };
        match &body.place {
            Place::Collected(bytes) if whole.is_empty() => {
                self.apply(Request::Append { log, value: inline }, Arrived::Copied(bytes))
            }
            Place::Collected(_) => self.apply(Request::Append { log, value: inline }, whole),
            Place::Landed(extents) | Place::Reserved(extents) => {
                let value = Value::Kept { extents, checksum };
                self.apply(Request::Append { log, value }, Arrived::NONE)
            }
        }
    }

    /// Answers a call that is not an append, or parks the flow until that can be done.
    pub(crate) fn ask(&mut self, flow: &mut Flow, asked: Asked) {
        let Asked { call, link, bodyless, skip } = asked;
        let request = match &call {
            Call::Live => return self.answer_probe(flow, asked, Ok(())),
            Call::Ready => return self.answer_probe(flow, asked, self.readiness()),
            Call::List => return self.begin_list(flow, asked),
            Call::Append(_) => unreachable!("an append has a body"),
            Call::Read(log, seq) => Request::Read { log: log.as_str(), seq: *seq },
            Call::Describe(log) => Request::Describe { log: log.as_str() },
            Call::Trim(log, before) => Request::Trim { log: log.as_str(), before: *before },
        };
        match self.apply(request, Arrived::NONE) {
            Applied::Done(Effect { lsn, answer }) => match answer {
                Ok(Answer::Found { len }) => return self.answer_found(flow, asked, lsn, len),
                Ok(Answer::Trimmed(log) | Answer::Described(log)) => {
                    self.reply(flow, lsn, &[], |out| reply::log(out, &log, link, bodyless));
                }
                Ok(Answer::Appended { .. }) => unreachable!("nothing was appended"),
                Err(refusal) => {
                    self.answer_fault_at(flow, lsn, reply::fault(refusal), link, bodyless);
                }
            },
            Applied::Needs(load) => return self.load(flow, asked, load),
            Applied::Wait => {
                flow.input = Input::Asked(asked);
                return self.park(flow, Parked::Medium);
            }
        }
        self.go_on(flow, link, skip);
    }

    fn readiness(&self) -> Result<(), Fault> {
        if self.core.store.is_read_only() { Err(reply::fault(Refusal::ReadOnly)) } else { Ok(()) }
    }

    fn answer_probe(&mut self, flow: &mut Flow, asked: Asked, health: Result<(), Fault>) {
        let Asked { link, bodyless, skip, .. } = asked;
        match health {
            Ok(()) => self.reply(flow, Lsn(0), &[], |out| {
                reply::text(out, Status::Ok, "ok", link, bodyless);
            }),
            Err(fault) => self.answer_fault(flow, fault, link, bodyless),
        }
        self.go_on(flow, link, skip);
    }

    /// Answers with the record that the store has found.
    fn answer_found(&mut self, flow: &mut Flow, asked: Asked, lsn: Lsn, len: u32) {
        let mut found = self.own.pools.extents();
        found.extend_from_slice(self.core.store.found());
        if self.core.jobs.reads_any(&found) {
            // The blocks around it are being read into their frames.
            flow.input = Input::Asked(asked);
            self.park(flow, Parked::Medium);
        } else {
            let Call::Read(_, seq) = asked.call else { unreachable!("only a read finds") };
            let copies = len <= COPY_BYTES_MAX;
            let stored = if asked.bodyless || copies { &[][..] } else { &found };
            let mut copy = std::mem::take(&mut self.own.copy);
            if copies && !asked.bodyless {
                for extent in &found {
                    copy.extend_from_slice(self.core.frames.bytes(extent.span()));
                }
            }
            self.reply(flow, lsn, stored, |out| {
                reply::record(out, seq, len, asked.link);
                out.append(&mut copy);
            });
            self.own.copy = copy;
            self.go_on(flow, asked.link, asked.skip);
        }
        self.own.pools.give_extents(found);
    }

    /// Starts bringing a record to where it can be sent from.
    fn load(&mut self, flow: &mut Flow, asked: Asked, load: Load) {
        flow.input = Input::Asked(asked);
        let mut extents = self.own.pools.extents();
        extents.extend_from_slice(self.core.store.found());
        if self.core.jobs.reads_any(&extents) {
            self.own.pools.give_extents(extents);
            return self.park(flow, Parked::Medium);
        }
        self.core.store.pin(&extents);
        let spans = self.core.jobs.spans(extents.iter().copied());
        let ticket = self.core.jobs.start(Job::Load(self.whose(flow), load, extents));
        self.core.medium.read(&mut self.own.io, &mut self.core.frames, ticket, &spans);
        self.core.jobs.give_spans(spans);
        self.park(flow, Parked::Job);
    }

    /// A record is where it can be sent from, unless it is not `intact`.
    pub(crate) fn loaded(&mut self, flow: &mut Flow, intact: bool) {
        if flow.parked != Some(Parked::Job) {
            return;
        }
        if let (false, Input::Asked(asked)) = (intact, &flow.input) {
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

    fn begin_list(&mut self, flow: &mut Flow, asked: Asked) {
        let (lsn, count) = (self.core.store.logs_lsn(), self.core.store.logs().count());
        // Brackets and newline; quotes and comma for each, but no comma for the last.
        let names = self.core.store.logs().map(|name| name.len() as u64 + 3).sum::<u64>();
        let len = 3 + names.saturating_sub(1);
        self.reply(flow, lsn, &[], |out| reply::json(out, len, asked.link));
        if asked.bodyless {
            return self.go_on(flow, asked.link, asked.skip);
        }
        let Asked { link, skip, .. } = asked;
        self.list(flow, Listing { lsn, count, next: 0, link, skip });
    }

    /// Goes on with a listing, as far as there is room for output.
    pub(crate) fn list(&mut self, flow: &mut Flow, mut listing: Listing) {
        let mut copy = std::mem::take(&mut self.own.copy);
        if listing.next == 0 {
            copy.push(b'[');
        }
        let names = self.core.store.logs().take(listing.count).skip(listing.next);
        for name in names {
            copy.extend_from_slice(if listing.next == 0 { b"\"" } else { b",\"" });
            copy.extend_from_slice(name.as_bytes());
            copy.push(b'"');
            listing.next += 1;
            if copy.len() >= LISTING_BYTES {
                break;
            }
        }
        let ends = listing.next == listing.count;
        if ends {
            copy.extend_from_slice(b"]\n");
        }
        self.reply(flow, listing.lsn, &[], |out| out.append(&mut copy));
        self.own.copy = copy;
        if ends {
            self.go_on(flow, listing.link, listing.skip);
        } else {
            flow.input = Input::Listing(listing);
            self.park(flow, Parked::Output);
        }
    }

    /// Answers with a fault that no record decides.
    pub(crate) fn answer_fault(
        &mut self,
        flow: &mut Flow,
        fault: Fault,
        link: Link,
        bodyless: bool,
    ) {
        self.answer_fault_at(flow, Lsn(0), fault, link, bodyless);
    }

    fn answer_fault_at(
        &mut self,
        flow: &mut Flow,
        lsn: Lsn,
        fault: Fault,
        link: Link,
        bodyless: bool,
    ) {
        let Fault { status, text, allow } = fault;
        self.reply(flow, lsn, &[], |out| match allow {
            Some(allow) => reply::not_allowed(out, allow, text, link, bodyless),
            None => reply::text(out, status, text, link, bodyless),
        });
    }

    /// A request was answered: what comes next on its flow?
    pub(crate) fn go_on(&mut self, flow: &mut Flow, link: Link, skip: u64) {
        flow.since = self.own.now;
        flow.input = match skip {
            _ if link == Link::Close => return self.end_input(flow),
            0 => Input::Head,
            skip => Input::Skip(skip),
        };
        if flow.output.is_full() {
            self.park(flow, Parked::Output);
        }
    }
}

/// A listing is written in pieces of about so many bytes.
const LISTING_BYTES: usize = 32 << 10;
