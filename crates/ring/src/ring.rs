//! The ring: slots, and who holds the buffers that they name.

use std::collections::VecDeque;

use impasto_region::BufId;

use crate::{FlowId, Slot, What};

/// Slots between `head` and `tail`. A port moves `tail`, the worker `cur` and `head`.
///
/// Positions only grow; they are places of a bounded table modulo its length.
#[derive(Debug)]
pub struct Ring {
    places: Box<[Slot]>,
    head: u64,
    cur: u64,
    tail: u64,
    /// By index of flows: the first generation that is not hidden.
    hidden: Vec<u32>,
    /// By buffer.
    holds: Vec<Hold>,
    drained: VecDeque<BufId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    count: u32,
    /// The port has filled the buffer to its end.
    is_full: bool,
}

const VACANT: Slot = Slot { flow: FlowId { index: 0, generation: 0 }, what: What::Open };

impl Ring {
    /// Returns an empty ring.
    ///
    /// # Panics
    /// If `slots` is not a power of two.
    pub fn new(slots: usize) -> Self {
        assert!(slots.is_power_of_two(), "{slots} slots are not a power of two");
        Self {
            places: vec![VACANT; slots].into_boxed_slice(),
            head: 0,
            cur: 0,
            tail: 0,
            hidden: Vec::new(),
            holds: Vec::new(),
            drained: VecDeque::with_capacity(slots),
        }
    }

    /// Returns the position of the first slot that was not given back.
    pub const fn head(&self) -> u64 {
        self.head
    }

    /// Returns the position of the first slot that was not looked at.
    pub const fn cur(&self) -> u64 {
        self.cur
    }

    /// Returns the position behind the last slot.
    pub const fn tail(&self) -> u64 {
        self.tail
    }

    /// Returns the slot at `at`, if that is at or behind `head` and before `tail`.
    pub fn slot(&self, at: u64) -> Option<&Slot> {
        (self.head..self.tail).contains(&at).then(|| &self.places[self.place(at)])
    }

    /// Returns the slot at `cur` and moves `cur` behind it. Slots of flows closed meanwhile are
    /// passed over.
    pub fn advance(&mut self) -> Option<Slot> {
        while self.cur < self.tail {
            let slot = self.places[self.place(self.cur)];
            self.cur += 1;
            if !self.is_hidden(slot.flow) {
                return Some(slot);
            }
        }
        None
    }

    /// Gives back what was looked at: moves `head` to `cur`.
    pub fn release(&mut self) {
        while self.head < self.cur {
            let slot = self.places[self.place(self.head)];
            self.head += 1;
            if let What::Data(extent) = slot.what {
                self.unhold(extent.buf);
            }
        }
    }

    /// Holds `buf` beyond the slots that name it.
    pub fn hold(&mut self, buf: BufId) {
        let index = buf.0 as usize;
        if index >= self.holds.len() {
            self.holds.resize(index + 1, Hold::default());
        }
        self.holds[index].count += 1;
    }

    /// Ends one hold of `buf`.
    ///
    /// # Panics
    /// If nobody holds it.
    pub fn unhold(&mut self, buf: BufId) {
        let hold = self.holds.get_mut(buf.0 as usize).filter(|hold| hold.count > 0);
        let hold = hold.expect("a hold ends once");
        hold.count -= 1;
        if hold.count == 0 && std::mem::take(&mut hold.is_full) {
            self.drained.push_back(buf);
        }
    }

    /// Returns the number of slots that fit.
    pub fn room(&self) -> usize {
        let used = usize::try_from(self.tail - self.head).expect("slots are in memory");
        self.places.len() - used
    }

    /// For ports: adds a slot at `tail`. A slot with data holds its buffer.
    ///
    /// # Panics
    /// If the ring has no room.
    pub fn push(&mut self, slot: Slot) {
        assert!(self.room() > 0, "the ring has room for a slot");
        if let What::Data(extent) = slot.what {
            self.hold(extent.buf);
        }
        let place = self.place(self.tail);
        self.places[place] = slot;
        self.tail += 1;
    }

    /// For ports: notes that `buf` is full. It is drained when the last hold ends, at once if there
    /// is none.
    pub fn fill(&mut self, buf: BufId) {
        self.hold(buf);
        self.holds[buf.0 as usize].is_full = true;
        self.unhold(buf);
    }

    /// For ports: returns a buffer that is full and that nobody holds any more.
    pub fn drained(&mut self) -> Option<BufId> {
        self.drained.pop_front()
    }

    /// For ports: hides the slots of `flow` that were not looked at, and those of earlier flows
    /// with its index. They still hold their buffers. Takes the same time however many there are.
    pub fn hide(&mut self, flow: FlowId) {
        let index = flow.index as usize;
        if index >= self.hidden.len() {
            self.hidden.resize(index + 1, 0);
        }
        if !self.is_hidden(flow) {
            self.hidden[index] = flow.generation.wrapping_add(1);
        }
    }

    fn is_hidden(&self, flow: FlowId) -> bool {
        // Generations of one index follow each other, and wrap.
        let is_before = |first: &u32| flow.generation.wrapping_sub(*first) > u32::MAX / 2;
        self.hidden.get(flow.index as usize).is_some_and(is_before)
    }

    #[expect(clippy::cast_possible_truncation, reason = "below a length that is a usize")]
    fn place(&self, at: u64) -> usize {
        // A power of two: a division would be a third of what a slot takes.
        (at & (self.places.len() as u64 - 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use impasto_region::Extent;

    use super::*;

    const FLOW: FlowId = FlowId { index: 1, generation: 0 };

    fn data(buf: u32, offset: u32) -> Slot {
        let extent = Extent { buf: BufId(buf), offset, len: 10 };
        Slot { flow: FLOW, what: What::Data(extent) }
    }

    /// Without the holds of slots, a buffer would be filled again under a slot that nobody has seen
    /// yet.
    #[test]
    fn a_full_buffer_drains_when_head_has_passed_its_last_slot() {
        let mut ring = Ring::new(4);
        ring.push(data(7, 0));
        ring.push(data(7, 10));
        ring.fill(BufId(7));
        assert_eq!(ring.advance(), Some(data(7, 0)));
        ring.release();
        assert_eq!((ring.drained(), ring.head()), (None, 1));
        ring.advance();
        assert_eq!(ring.drained(), None, "looked at, not given back");
        ring.release();
        assert_eq!((ring.drained(), ring.drained()), (Some(BufId(7)), None));
    }

    #[test]
    fn a_hold_outlasts_the_slots() {
        let mut ring = Ring::new(2);
        ring.push(data(3, 0));
        ring.hold(BufId(3));
        ring.advance();
        ring.release();
        ring.fill(BufId(3));
        assert_eq!(ring.drained(), None);
        ring.unhold(BufId(3));
        assert_eq!(ring.drained(), Some(BufId(3)));
        ring.fill(BufId(4));
        assert_eq!(ring.drained(), Some(BufId(4)), "nobody held it at all");
    }

    /// Without `is_full` a buffer that is being filled would be given out between two of its slots.
    #[test]
    fn a_buffer_being_filled_never_drains() {
        let mut ring = Ring::new(2);
        for offset in [0, 10, 20] {
            ring.push(data(0, offset));
            ring.advance();
            ring.release();
            assert_eq!(ring.drained(), None);
        }
    }

    #[test]
    fn positions_wrap_around_the_table() {
        let mut ring = Ring::new(2);
        for offset in 0..100 {
            ring.push(data(0, offset));
            assert_eq!(ring.slot(u64::from(offset)), Some(&data(0, offset)));
            assert_eq!(ring.advance(), Some(data(0, offset)));
            assert_eq!(ring.advance(), None);
            ring.release();
            assert_eq!((ring.slot(u64::from(offset)), ring.room()), (None, 2));
        }
    }

    #[test]
    fn hidden_slots_are_passed_over_and_let_go_of_their_buffer() {
        let mut ring = Ring::new(4);
        let other = Slot { flow: FlowId { index: 2, generation: 0 }, what: What::End };
        ring.push(data(5, 0));
        ring.push(other);
        ring.push(data(5, 10));
        ring.fill(BufId(5));
        ring.hide(FLOW);
        assert_eq!((ring.advance(), ring.advance()), (Some(other), None));
        ring.release();
        assert_eq!(ring.drained(), Some(BufId(5)));
    }

    /// Without the order of generations, a flow would be deaf because another had its index before.
    #[test]
    fn the_next_flow_of_a_hidden_ones_index_is_seen_also_when_generations_wrap() {
        let mut ring = Ring::new(4);
        let mut generation = u32::MAX / 2 - 1;
        for step in [1, 1, 1, u32::MAX / 2 - 1, 1, 1, 1] {
            let flow = FlowId { index: 3, generation };
            let next = FlowId { generation: generation.wrapping_add(1), ..flow };
            ring.push(Slot { flow, what: What::Open });
            ring.push(Slot { flow: next, what: What::Open });
            ring.hide(flow);
            ring.hide(flow);
            assert_eq!(ring.advance().map(|slot| slot.flow), Some(next), "{generation}");
            assert_eq!(ring.advance(), None);
            ring.release();
            generation = generation.wrapping_add(step);
        }
    }

    #[test]
    #[should_panic(expected = "a hold ends once")]
    fn a_hold_does_not_end_twice() {
        let mut ring = Ring::new(2);
        ring.hold(BufId(1));
        ring.unhold(BufId(1));
        ring.unhold(BufId(1));
    }
}
