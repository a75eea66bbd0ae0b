//! Records in a row: as many as a reply may have, taken from the log in one step.

use impasto_media::Medium;
use impasto_region::Extent;
use impasto_ring::Port;
use impasto_store::{Answer, Applied, Effect, Load, Lsn, Refusal, Request};

use crate::{
    Enter,
    config::{BATCH_BYTES_MAX, COPY_BYTES_MAX},
    engine::Engine,
    flow::{Asked, Flow, Input, Parked},
    http::{
        Batch, Fault, Form, LogName, Record,
        batch::{LINE_VALUE_BYTES_MAX, frame, line, line_elsewhere},
        reply,
    },
    placer::Arrived,
    reads::DAMAGED,
};

/// Records in a row, as far as they are taken.
struct Row<'a> {
    log: &'a LogName,
    batch: Batch,
    /// What it reads.
    lsn: Lsn,
    /// The next record.
    next: u64,
    count: u16,
    /// Bytes of the values.
    bytes: u64,
    /// What is sent, but for the longer values.
    copy: Vec<u8>,
    stored: Vec<Extent>,
    /// Where `stored` stands in `copy`: so much of both before each cut.
    cuts: Vec<(usize, usize)>,
}

/// What became of the next record.
enum Next {
    /// It is taken, or the row starts later.
    Taken,
    /// The row ends before it.
    End,
    /// There is no row.
    Refused(Lsn, Fault),
    /// It has to be read first.
    Needs(Load),
    /// The blocks around it are being read.
    Busy,
}

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Answers with records in a row, or parks the flow until all of them can be sent.
    pub(crate) fn answer_batch(
        &mut self,
        flow: &mut Flow,
        asked: Asked,
        log: &LogName,
        batch: Batch,
    ) {
        let mut row = Row {
            log,
            batch,
            lsn: Lsn(0),
            next: batch.from.unwrap_or(1),
            count: 0,
            bytes: 0,
            copy: std::mem::take(&mut self.own.copy),
            stored: self.own.pools.extents(),
            cuts: Vec::new(),
        };
        let end = loop {
            let next = if row.count == batch.limit {
                Next::End
            } else if asked.damaged == Some(row.next) {
                if row.count > 0 { Next::End } else { Next::Refused(Lsn(0), DAMAGED) }
            } else {
                self.take_next(&mut row)
            };
            if !matches!(next, Next::Taken) {
                break next;
            }
        };
        match end {
            Next::Refused(lsn, fault) => self.refuse(flow, &asked, lsn, fault),
            Next::Needs(load) => self.load_row(flow, asked, &mut row, load),
            Next::Busy => {
                flow.input = Input::Asked(asked);
                self.park(flow, Parked::Medium);
            }
            Next::Taken | Next::End => {
                self.send_row(flow, &asked, &row);
                self.own.made_bytes += row.work();
                self.go_on_after_work(flow, &asked);
            }
        }
        row.copy.clear();
        self.own.copy = row.copy;
        self.own.pools.give_extents(row.stored);
    }

    /// Takes the next record into the row.
    fn take_next(&mut self, row: &mut Row<'_>) -> Next {
        let (seq, log) = (row.next, row.log.as_str());
        let (lsn, answer) = match self.apply(Request::Read { log, seq }, Arrived::NONE) {
            Applied::Done(Effect { lsn, answer }) => (lsn, answer),
            Applied::Needs(load) => return self.take_unread(row, load),
            Applied::Wait => unreachable!("a read takes no room in the log"),
        };
        match answer {
            Ok(Answer::Found { len, checksum }) => {
                self.take_record(row, lsn, Record { seq, len, checksum })
            }
            Ok(_) => unreachable!("a read finds"),
            // It starts with the oldest, whichever that is.
            Err(Refusal::Trimmed { first }) if row.batch.from.is_none() => {
                (row.next, row.lsn) = (first, lsn);
                Next::Taken
            }
            // D3: that there is no more is all that an empty row tells.
            Err(Refusal::Future { next }) if next == seq => {
                row.lsn = if row.count == 0 { lsn } else { row.lsn };
                Next::End
            }
            Err(_) if row.count > 0 => Next::End,
            Err(refusal) => Next::Refused(lsn, refusal.into()),
        }
    }

    fn take_record(&mut self, row: &mut Row<'_>, lsn: Lsn, record: Record) -> Next {
        if !row.has_room(record.len) {
            return Next::End;
        }
        let found = self.core.store.found();
        if row.tells(record.len) && self.core.jobs.reads_any(found) {
            return Next::Busy;
        }
        if row.batch.form == Form::Framed {
            frame(&mut row.copy, record);
            if record.len <= COPY_BYTES_MAX {
                self.copy_out(found, &mut row.copy);
            } else {
                row.stored.extend_from_slice(found);
                row.cuts.push((row.copy.len(), row.stored.len()));
            }
        } else if row.tells(record.len) {
            let mut value = self.own.pools.bytes();
            self.copy_out(self.core.store.found(), &mut value);
            let start = row.copy.len();
            line(&mut row.copy, record, &value);
            self.own.pools.give_bytes(value);
            // Escaped, it is up to six times as long: more than there was room for.
            if row.count > 0 && row.copy.len() as u64 > BATCH_BYTES_MAX {
                row.copy.truncate(start);
                return Next::End;
            }
        } else {
            line_elsewhere(&mut row.copy, record, row.log);
        }
        row.lsn = row.lsn.max(lsn);
        row.pass(record.len);
        Next::Taken
    }

    /// The next record was not read since the start: it is durable.
    fn take_unread(&mut self, row: &mut Row<'_>, load: Load) -> Next {
        let len = self.core.store.found().iter().map(|extent| extent.len).sum();
        match row.has_room(len) {
            false => Next::End,
            true if row.tells(len) => Next::Needs(load),
            true => {
                let record = Record { seq: row.next, len, checksum: load.checksum };
                self.take_record(row, Lsn(0), record)
            }
        }
    }

    /// Starts reading all records of the row that were not read, from the next one on.
    fn load_row(&mut self, flow: &mut Flow, asked: Asked, row: &mut Row<'_>, first: Load) {
        let (mut loads, mut extents) = (self.own.pools.loads(), self.own.pools.extents());
        let mut load = Some(first);
        loop {
            let found = self.core.store.found();
            let len = found.iter().map(|extent| extent.len).sum();
            if !row.has_room(len) {
                break;
            }
            if let Some(load) = load.take().filter(|_| row.tells(len)) {
                extents.extend_from_slice(found);
                loads.push((load, found.len()));
            }
            row.pass(len);
            if row.count == row.batch.limit {
                break;
            }
            let request = Request::Read { log: row.log.as_str(), seq: row.next };
            match self.apply(request, Arrived::NONE) {
                Applied::Needs(next) => load = Some(next),
                Applied::Done(Effect { answer: Ok(_), .. }) => {}
                _ => break,
            }
        }
        self.load_all(flow, asked, loads, extents);
    }

    fn send_row(&mut self, flow: &mut Flow, asked: &Asked, row: &Row<'_>) {
        let Row { lsn, next, copy, stored, .. } = row;
        let len =
            copy.len() as u64 + stored.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
        let (form, link) = (row.batch.form, asked.link);
        self.reply(flow, *lsn, &[], |out| reply::batch(out, form, *next, len, link));
        if asked.bodyless || len == 0 {
            return;
        }
        let (mut at, mut from) = (0, 0);
        for (cut, to) in row.cuts.iter().copied().chain([(copy.len(), stored.len())]) {
            let bytes = &copy[at..cut];
            self.send(flow, *lsn, &stored[from..to], |out| out.extend_from_slice(bytes));
            (at, from) = (cut, to);
        }
    }
}

impl Row<'_> {
    /// Returns true if a value of `len` bytes may follow. The first one always may.
    fn has_room(&self, len: u32) -> bool {
        let told = if self.tells(len) { u64::from(len) } else { 0 };
        // A line is longer than its value, and not written yet if that is still to be read.
        let lines = if self.batch.form == Form::Framed { 0 } else { self.copy.len() as u64 };
        self.count == 0 || self.bytes.max(lines) + told <= BATCH_BYTES_MAX
    }

    /// Returns true if a value of `len` bytes is sent with the row, and not told where it is.
    fn tells(&self, len: u32) -> bool {
        self.batch.form == Form::Framed || len <= LINE_VALUE_BYTES_MAX
    }

    /// Returns how much it was to make, in bytes: finding a record takes as long as copying some.
    const fn work(&self) -> u64 {
        self.copy.len() as u64 + self.count as u64 * 256
    }

    /// Goes on behind a value of `len` bytes.
    fn pass(&mut self, len: u32) {
        self.bytes += if self.tells(len) { u64::from(len) } else { 0 };
        self.next += 1;
        self.count += 1;
    }
}
