//! Reads or writes of many tickets: those in flight, and those that wait for their turn.
//!
//! ```text
//! ticket 1   [256 KiB] [256 KiB] ..   \
//! ticket 2   [100 KiB]                 >  one of each, in turns  ->  in flight: few bytes
//! ticket 3   [256 KiB] [4 KiB]        /
//! ```

use std::collections::{HashMap, VecDeque};

use impasto_region::{Span, layout::BLOCK_BYTES};

use crate::{DevToken, Ticket};

/// Operations of one kind.
#[derive(Debug)]
pub(super) struct Lane {
    in_flight: Vec<(DevToken, Ticket, Span)>,
    bytes_in_flight: u64,
    /// By ticket that has operations in flight or waiting.
    queues: HashMap<Ticket, Queue>,
    /// The tickets that have operations waiting, each once. The first starts one and goes to the
    /// back, so that a short body waits for one operation of each long one, not for all of them.
    turns: VecDeque<Ticket>,
    /// Empty, to be used again: a lane that has been busy once does not allocate.
    spare: Vec<VecDeque<Span>>,
}

#[derive(Debug, Default)]
struct Queue {
    in_flight: usize,
    /// Operations to be, none longer than its `push` wanted.
    waiting: VecDeque<Span>,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            in_flight: Vec::with_capacity(OPS_MAX),
            bytes_in_flight: 0,
            queues: HashMap::new(),
            turns: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Adds `span` to what waits, in operations of at most `op_bytes`. What adjoins the last one of
    /// the ticket fills it up: parts that come in while the device is busy are fewer, longer
    /// operations.
    ///
    /// # Panics
    /// If `span` is not whole blocks.
    pub(super) fn push(&mut self, ticket: Ticket, span: Span, op_bytes: u64) {
        assert_blocks(span);
        assert!(op_bytes <= OP_BYTES_MAX, "an operation fits the budget of its lane");
        if span.len == 0 {
            return;
        }
        let spare = &mut self.spare;
        let queue = self
            .queues
            .entry(ticket)
            .or_insert_with(|| Queue { in_flight: 0, waiting: spare.pop().unwrap_or_default() });
        if queue.waiting.is_empty() {
            self.turns.push_back(ticket);
        }
        let mut at = span.at;
        while at < span.end() {
            let rest = span.end() - at;
            match queue.waiting.back_mut() {
                Some(last) if last.end() == at && last.len < op_bytes => {
                    let more = rest.min(op_bytes - last.len);
                    last.len += more;
                    at += more;
                }
                _ => {
                    let len = rest.min(op_bytes);
                    queue.waiting.push_back(Span::new(at, len));
                    at += len;
                }
            }
        }
    }

    /// Returns the operation whose turn it is, if it may start: at most `bytes_in_flight_max` are
    /// in flight then.
    pub(super) fn next(&self, bytes_in_flight_max: u64) -> Option<Span> {
        let ticket = self.turns.front()?;
        let span = *self.queues[ticket].waiting.front().expect("who has a turn has a span");
        let fits = self.in_flight.len() < OPS_MAX
            && self.bytes_in_flight + span.len <= bytes_in_flight_max;
        fits.then_some(span)
    }

    /// Notes that what [`next`](Self::next) returned is in flight as `token`.
    pub(super) fn started(&mut self, token: DevToken) {
        let ticket = self.turns.pop_front().expect("there was a next one");
        let queue = self.queues.get_mut(&ticket).expect("who has a turn has a queue");
        let span = queue.waiting.pop_front().expect("who has a turn has a span");
        queue.in_flight += 1;
        if !queue.waiting.is_empty() {
            self.turns.push_back(ticket);
        }
        self.in_flight.push((token, ticket, span));
        self.bytes_in_flight += span.len;
    }

    /// Removes the operation that `token` names, if it is of this lane.
    pub(super) fn completed(&mut self, token: DevToken) -> Option<(Ticket, Span)> {
        let index = self.in_flight.iter().position(|(op, ..)| *op == token)?;
        let (_, ticket, span) = self.in_flight.swap_remove(index);
        self.bytes_in_flight -= span.len;
        let queue = self.queues.get_mut(&ticket).expect("what is in flight has a queue");
        queue.in_flight -= 1;
        self.remove_if_idle(ticket);
        Some((ticket, span))
    }

    /// Drops what waits of `ticket`.
    pub(super) fn drop_waiting(&mut self, ticket: Ticket) {
        if let Some(queue) = self.queues.get_mut(&ticket)
            && !queue.waiting.is_empty()
        {
            queue.waiting.clear();
            self.turns.retain(|other| *other != ticket);
            self.remove_if_idle(ticket);
        }
    }

    /// Returns a ticket that has operations waiting.
    pub(super) fn waits(&self) -> Option<Ticket> {
        self.turns.front().copied()
    }

    /// Returns true if nothing of `ticket` is in flight or waits.
    pub(super) fn is_idle(&self, ticket: Ticket) -> bool {
        !self.queues.contains_key(&ticket)
    }

    /// Returns true if an operation in flight covers a byte of `span`.
    pub(super) fn is_in_flight(&self, span: Span) -> bool {
        self.in_flight.iter().any(|(_, _, other)| other.overlaps(span))
    }

    fn remove_if_idle(&mut self, ticket: Ticket) {
        let queue = &self.queues[&ticket];
        if queue.in_flight == 0 && queue.waiting.is_empty() {
            let queue = self.queues.remove(&ticket).expect("it was just looked at");
            self.spare.push(queue.waiting);
        }
    }
}

/// Longer reads and writes are several operations: short enough for turns, and for a few of them to
/// fill the budget.
pub(super) const OP_BYTES_MAX: u64 = 256 << 10;
/// Most bytes in flight, of reads and, beside commits, of writes. A commit goes to the device at
/// once, but there it stands behind what is in flight. What the device has no room for is the I/O
/// scheduler's, which may prefer a sequential body to a commit elsewhere for as long as it lasts.
/// On a virtual disk under `mq-deadline` 4 KiB commits beside 1 MiB of writes took 0.5 ms at the
/// median; beside 2 MiB they took 10 ms, beside 32 MiB 200.
pub(super) const BYTES_IN_FLIGHT_MAX: u64 = 1 << 20;
/// The same, of writes that have the device to themselves: 4 bodies of 64 MiB at once came with
/// 1,500 MB/s on such a disk with 1 MiB in flight, with 2,750 with 4 or 8 MiB, with 3,280 with 32.
///
/// A commit that comes alone changes nothing: most often it is the record of a body. It may stand
/// behind all that is in flight, a few milliseconds of a fast device. From the next one on, if that
/// comes before so many bytes were written as [`ALONE_AFTER_BYTES`], there is the 1 MiB.
pub(super) const BYTES_IN_FLIGHT_MAX_ALONE: u64 = 16 << 20;
/// So many bytes are written after a commit has started until writes count as alone again. They
/// measure the pause in place of a clock: a few milliseconds of a fast device, longer of a slow
/// one, on which a commit waits longer, too.
pub(super) const ALONE_AFTER_BYTES: u64 = 8 << 20;
/// Most operations in flight.
pub(super) const OPS_MAX: usize = 64;

const _: () = assert!(OP_BYTES_MAX <= BYTES_IN_FLIGHT_MAX, "an operation can start");
const _: () = assert!(
    BYTES_IN_FLIGHT_MAX_ALONE <= OPS_MAX as u64 * OP_BYTES_MAX,
    "long operations are limited by their bytes"
);

pub(super) fn assert_blocks(span: Span) {
    let whole = span.at.is_multiple_of(BLOCK_BYTES) && span.len.is_multiple_of(BLOCK_BYTES);
    assert!(whole, "{span:?} is not whole blocks");
}
