//! The table of a port's connections.

use impasto_uring::{Fd, Op};

use crate::{FlowId, Part, Sockets};

/// One connection, from its accept until nothing of it is in flight.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) socket: Fd,
    pub(crate) receiving: Receiving,
    /// The transmit in flight, and its parts.
    pub(crate) sending: Option<(Op, Vec<Part>)>,
    pub(crate) is_paused: bool,
    /// To be told when no receive is in flight.
    pub(crate) is_stopping: bool,
    /// Waits for a buffer to land in.
    pub(crate) is_starved: bool,
    /// Something has landed since it was starved last.
    pub(crate) has_landed: bool,
    /// To be shut when its transmit has ended.
    pub(crate) is_shutting: bool,
    /// A transmit has failed; to be told when no receive is in flight.
    pub(crate) is_broken: bool,
    /// Closed by its owner; gone when nothing is in flight.
    pub(crate) is_closing: bool,
}

/// What a flow's receive does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// No receive is in flight.
    Idle,
    /// One is.
    Armed(Op),
    /// One is, straight into a span.
    Directed(Op),
    /// One is and was cancelled.
    Stopping,
    /// The peer sends no more.
    Ended,
    /// The connection is gone.
    Broken,
}

impl Flow {
    /// Returns true if nothing of a closed flow is in flight.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_closing && !self.receiving.is_in_flight() && self.sending.is_none()
    }

    /// Returns true if a receive is to be started.
    pub(crate) fn wants_receive(&self) -> bool {
        let may = !(self.is_paused || self.is_starved || self.is_closing);
        may && self.receiving == Receiving::Idle
    }
}

impl Receiving {
    /// Returns true if the kernel may still have something to say.
    pub(crate) const fn is_in_flight(self) -> bool {
        matches!(self, Self::Armed(_) | Self::Directed(_) | Self::Stopping)
    }

    /// Cancels the receive in flight, if that was not done before.
    pub(crate) fn cancel(&mut self, io: &mut impl Sockets) {
        if let Self::Armed(receive) | Self::Directed(receive) = *self {
            io.cancel(receive);
            *self = Self::Stopping;
        }
    }
}

/// Flows by index.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    flow: Option<Flow>,
}

impl Flows {
    /// Returns the number of flows.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Adds a flow.
    pub(crate) fn open(&mut self, socket: Fd) -> FlowId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("flows fit u32")
        });
        let place = &mut self.places[index as usize];
        let id = FlowId { index, generation: place.generation };
        place.flow = Some(Flow {
            id,
            socket,
            receiving: Receiving::Idle,
            sending: None,
            is_paused: false,
            is_stopping: false,
            is_starved: false,
            has_landed: false,
            is_shutting: false,
            is_broken: false,
            is_closing: false,
        });
        id
    }

    /// Returns a flow that its owner has not closed.
    pub(crate) fn open_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.at_mut(id.index).filter(|flow| flow.id == id && !flow.is_closing)
    }

    /// Returns the flow at `index`, closed or not.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut Flow> {
        self.places.get_mut(index as usize)?.flow.as_mut()
    }

    /// Removes the flow at `index` if it is gone, and returns its socket.
    pub(crate) fn take_gone(&mut self, index: u32) -> Option<Fd> {
        let place = self.places.get_mut(index as usize)?;
        let flow = place.flow.take_if(|flow| flow.is_gone())?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(flow.socket)
    }
}
