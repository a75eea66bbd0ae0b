//! From requests to replies.

use impasto_media::Medium;
use impasto_ring::Port;
use impasto_store::{Answer, Applied, Effect, LogInfo, Lsn, Refusal, Request, Value};

use crate::{
    Enter,
    engine::Engine,
    flow::{Asked, Body, Flow, Input, Listing, Parked, Place},
    http::{Call, Fault, Link, Record, Status, reply},
    placer::Arrived,
};

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
        let Body { log, link, len, .. } = body;
        match effect.answer {
            Ok(Answer::Appended { seq }) => {
                self.recycle_place(body.place);
                let record = Record { seq, len, checksum: body.sum.value() };
                let write = |out: &mut Vec<u8>| reply::created(out, &log, record, link);
                self.reply(flow, effect.lsn, &[], write);
            }
            Ok(_) => unreachable!("an append is answered as one"),
            Err(refusal) => {
                self.drop_place(body.place);
                self.answer_fault_at(flow, effect.lsn, refusal.into(), link, false);
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
        let request = match &asked.call {
            Call::Read(log, seq) => Request::Read { log: log.as_str(), seq: *seq },
            Call::Describe(log) => Request::Describe { log: log.as_str() },
            Call::Trim(log, before) => Request::Trim { log: log.as_str(), before: *before },
            Call::Batch(log, batch) => {
                let (log, batch) = (*log, *batch);
                return self.answer_batch(flow, asked, &log, batch);
            }
            Call::List => return self.begin_list(flow, asked),
            Call::Region | Call::Metrics => return self.answer_overview(flow, &asked),
            _ => return self.answer_plain(flow, &asked),
        };
        match self.apply(request, Arrived::NONE) {
            Applied::Done(Effect { lsn, answer }) => match answer {
                Ok(Answer::Found { len, checksum }) => {
                    let Call::Read(_, seq) = asked.call else { unreachable!("a read finds") };
                    self.answer_found(flow, asked, lsn, Record { seq, len, checksum });
                }
                Ok(Answer::Trimmed(log) | Answer::Described(log)) => {
                    let LogInfo { first, next, records, bytes } = log;
                    let fields =
                        [("first", first), ("next", next), ("records", records), ("bytes", bytes)];
                    let Asked { link, bodyless, skip, .. } = asked;
                    let write = |out: &mut Vec<u8>| reply::numbers(out, &fields, link, bodyless);
                    self.reply(flow, lsn, &[], write);
                    self.go_on(flow, link, skip);
                }
                Ok(Answer::Appended { .. }) => unreachable!("nothing was appended"),
                Err(refusal) => self.refuse(flow, &asked, lsn, refusal.into()),
            },
            Applied::Needs(load) => self.load(flow, asked, load),
            Applied::Wait => {
                flow.input = Input::Asked(asked);
                self.park(flow, Parked::Medium);
            }
        }
    }

    /// Answers a call with a fault that `lsn` decides, and goes on behind it.
    pub(crate) fn refuse(&mut self, flow: &mut Flow, asked: &Asked, lsn: Lsn, fault: Fault) {
        let Asked { link, bodyless, skip, .. } = *asked;
        self.answer_fault_at(flow, lsn, fault, link, bodyless);
        self.go_on(flow, link, skip);
    }

    /// Answers a call that no record decides.
    fn answer_plain(&mut self, flow: &mut Flow, asked: &Asked) {
        let Asked { link, bodyless, skip, .. } = *asked;
        let to_page = flow.allowed.is_some();
        let text = |out: &mut Vec<u8>, status, text| reply::text(out, status, text, link, bodyless);
        let is_ready = !self.core.store.is_read_only();
        self.reply(flow, Lsn(0), &[], |out| match asked.call {
            Call::Live => text(out, Status::Ok, "ok"),
            Call::Ready if is_ready => text(out, Status::Ok, "ok"),
            Call::Ready => {
                let Fault { status, text: why, .. } = Refusal::ReadOnly.into();
                text(out, status, why);
            }
            Call::Version => reply::version(out, link, bodyless),
            Call::Options(allow) => reply::options(out, allow, to_page, link),
            _ => unreachable!("all others read the store"),
        });
        self.go_on(flow, link, skip);
    }

    fn begin_list(&mut self, flow: &mut Flow, asked: Asked) {
        let (lsn, count) = (self.core.store.logs_lsn(), self.core.store.logs().count());
        // Brackets and newline; quotes and comma for each, but no comma for the last.
        let names = self.core.store.logs().map(|name| name.len() as u64 + 3).sum::<u64>();
        let len = 3 + names.saturating_sub(1);
        self.reply(flow, lsn, &[], |out| reply::json(out, len, asked.link));
        self.own.made_bytes += count as u64 * LISTED_BYTES;
        if asked.bodyless {
            return self.go_on_after_work(flow, &asked);
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
        self.send(flow, listing.lsn, &[], |out| out.append(&mut copy));
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
        self.reply(flow, lsn, &[], |out| reply::problem(out, &fault, link, bodyless));
    }

    /// A call was answered that was as much work as one whose answer fills the output, which a HEAD
    /// does not.
    pub(crate) fn go_on_after_work(&mut self, flow: &mut Flow, asked: &Asked) {
        self.go_on(flow, asked.link, asked.skip);
        if asked.bodyless && flow.parked.is_none() && asked.link != Link::Close {
            self.park(flow, Parked::Output);
        }
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
/// To look at a log takes as long as copying so many bytes.
const LISTED_BYTES: u64 = 8;
