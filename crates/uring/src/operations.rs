//! Operations by name, and completions by owner: what anything keeps that starts operations and
//! tells of their ends.

use std::{collections::VecDeque, io};

use impasto_region::SpanLoan;

use crate::{Fd, Landing};

/// Whom a completion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The port.
    Port,
    /// The medium's device.
    Dev,
    /// The loop itself.
    Loop,
}

/// Names an operation to its owner; the owner's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Who starts the operation and gets its completions.
    pub owner: Owner,
    /// What the owner wants to find in them.
    pub value: u64,
}

/// Names an operation in flight, to cancel it. Names nothing once the operation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    index: u32,
    generation: u32,
}

/// An operation has completed, or reports something and goes on. `L` says where something has
/// landed.
#[derive(Debug)]
#[must_use = "it may hand back memory"]
pub struct Completion<L = Landing> {
    /// The operation's token.
    pub token: Token,
    /// What the kernel says; of a send the number of bytes sent in all.
    pub result: io::Result<u32>,
    /// True if the operation goes on and completes again.
    pub more: bool,
    /// What comes with it.
    pub handed: Handed<L>,
}

/// What a [`Completion`] hands out.
#[derive(Debug)]
pub enum Handed<L = Landing> {
    /// Nothing.
    Nothing,
    /// A new connection.
    Accepted(Fd),
    /// Bytes in a buffer of a group. They are taken by [`BufGroup::land`](crate::BufGroup::land),
    /// in the order of completions.
    Landed(L),
    /// The span of a read, to be [settled](impasto_region::Frames::settle_span).
    Filled(SpanLoan),
    /// The bytes of a send, for the next one.
    Bytes(Vec<u8>),
}

/// Operations that have not ended, by name.
#[derive(Debug)]
pub struct Operations<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    operation: Option<T>,
}

/// Completions that nobody has taken, by owner, in the order in which they came.
#[derive(Debug)]
pub struct Completions<L = Landing> {
    port: VecDeque<Completion<L>>,
    dev: VecDeque<Completion<L>>,
    own: VecDeque<Completion<L>>,
}

impl Op {
    pub(crate) const fn user_data(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes the halves apart")]
    pub(crate) const fn of(user_data: u64) -> Self {
        Self { index: user_data as u32, generation: (user_data >> 32) as u32 }
    }
}

impl<T> Default for Operations<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Operations<T> {
    /// Adds an operation.
    pub fn begin(&mut self, operation: T) -> Op {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, operation: None });
            u32::try_from(self.places.len() - 1).expect("operations in flight fit u32")
        });
        let place = &mut self.places[index as usize];
        place.operation = Some(operation);
        Op { index, generation: place.generation }
    }

    /// Returns the operation, if it has not ended.
    pub fn get_mut(&mut self, op: Op) -> Option<&mut T> {
        let place = self.places.get_mut(op.index as usize)?;
        place.operation.as_mut().filter(|_| place.generation == op.generation)
    }

    /// Removes the operation, if it has not ended.
    pub fn end(&mut self, op: Op) -> Option<T> {
        let place = self.places.get_mut(op.index as usize)?;
        let operation = place.operation.take_if(|_| place.generation == op.generation)?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(op.index);
        Some(operation)
    }

    /// Returns the number of operations that have not ended.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Returns true if all operations have ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<L> Default for Completions<L> {
    fn default() -> Self {
        Self { port: VecDeque::new(), dev: VecDeque::new(), own: VecDeque::new() }
    }
}

impl<L> Completions<L> {
    /// Adds a completion.
    pub fn push(&mut self, completion: Completion<L>) {
        self.queue(completion.token.owner).push_back(completion);
    }

    /// Returns the next completion of `owner`.
    pub fn pop(&mut self, owner: Owner) -> Option<Completion<L>> {
        self.queue(owner).pop_front()
    }

    /// Returns true if all were taken.
    pub fn is_empty(&self) -> bool {
        self.port.is_empty() && self.dev.is_empty() && self.own.is_empty()
    }

    fn queue(&mut self, owner: Owner) -> &mut VecDeque<Completion<L>> {
        match owner {
            Owner::Port => &mut self.port,
            Owner::Dev => &mut self.dev,
            Owner::Loop => &mut self.own,
        }
    }
}
