//! What several ports share: the limit of flows, and connections on their way to their port.
//!
//! ```text
//!   listener -> accept -> admit: a place, and the port with the fewest flows
//!                           |-> inbox of seat 0 -> flow
//!                           |-> inbox of seat 1 -> flow (its ring is woken)
//!                           `-> ...
//! ```
//!
//! One port accepts for all, so that few connections are spread evenly and the limit stands in one
//! place; `SO_REUSEPORT` would spread them by a hash.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use impasto_uring::{Fd, Waker};

use crate::Sockets;

/// What the ports of several workers share: see
/// [`SocketPort::with_gate`](crate::SocketPort::with_gate). `W` wakes a port.
#[derive(Debug)]
pub struct Gate<W = Waker> {
    flows_max: usize,
    /// From their accept on.
    flows: AtomicUsize,
    /// A seat waits for a flow to end.
    is_waited_for: AtomicBool,
    seats: Mutex<Seats<W>>,
}

#[derive(Debug)]
struct Seats<W> {
    /// Of the ports that take connections.
    open: Vec<Arc<Seat<W>>>,
    /// All of them.
    all: Vec<Arc<Seat<W>>>,
    /// Where the next search starts.
    next: usize,
}

/// One port at a gate.
#[derive(Debug)]
struct Seat<W> {
    waker: W,
    /// Its flows, with what is in its inbox.
    flows: AtomicUsize,
    inbox: Mutex<VecDeque<Fd>>,
    /// Spares a look at an empty inbox.
    has_mail: AtomicBool,
    /// It wants to know when a flow ends.
    is_waiting: AtomicBool,
}

/// A port's side of a gate. Dropped, its flows are no longer counted.
#[derive(Debug)]
pub(crate) struct Member<W> {
    gate: Arc<Gate<W>>,
    seat: Arc<Seat<W>>,
}

impl<W> Gate<W> {
    /// Returns a gate for at most `flows_max` flows of all its ports.
    pub fn new(flows_max: usize) -> Self {
        Self {
            flows_max,
            flows: AtomicUsize::new(0),
            is_waited_for: AtomicBool::new(false),
            seats: Mutex::new(Seats { open: Vec::new(), all: Vec::new(), next: 0 }),
        }
    }

    /// Returns the number of flows of all ports, with connections that are not flows yet.
    pub fn flows(&self) -> usize {
        // SeqCst: see `Member::wait`.
        self.flows.load(Ordering::SeqCst)
    }

    /// Takes a place for a connection.
    fn claim(&self) -> bool {
        let more = |flows| (flows < self.flows_max).then_some(flows + 1);
        self.flows.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn seats(&self) -> MutexGuard<'_, Seats<W>> {
        lock(&self.seats)
    }
}

impl<W> Seats<W> {
    /// Returns the open seat with the fewest flows; of several, each in its turn.
    fn least(&mut self) -> Option<&Arc<Seat<W>>> {
        let seats = self.open.len();
        let places = (0..seats).map(|step| (self.next + step) % seats);
        // Relaxed: a hint; the lock orders what is admitted.
        let flows = |place: &usize| self.open[*place].flows.load(Ordering::Relaxed);
        let place = places.min_by_key(flows)?;
        self.next = place + 1;
        self.open.get(place)
    }
}

impl<W> Member<W> {
    /// Joins `gate` for the port of `waker`'s ring.
    pub(crate) fn join(gate: &Arc<Gate<W>>, waker: W) -> Self {
        let seat = Arc::new(Seat {
            waker,
            flows: AtomicUsize::new(0),
            inbox: Mutex::default(),
            has_mail: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
        });
        let mut seats = gate.seats();
        seats.open.push(Arc::clone(&seat));
        seats.all.push(Arc::clone(&seat));
        drop(seats);
        Self { gate: Arc::clone(gate), seat }
    }

    /// Returns the number of connections that may come.
    pub(crate) fn room(&self) -> usize {
        self.gate.flows_max.saturating_sub(self.gate.flows())
    }

    /// Gives a connection to the port with the fewest flows, or back if there is no place for it.
    pub(crate) fn admit(&self, io: &mut impl Sockets<Waker = W>, socket: Fd) -> Result<(), Fd> {
        if !self.gate.claim() {
            return Err(socket);
        }
        let mut seats = self.gate.seats();
        // Nobody takes connections any more: it is closed.
        let Some(seat) = seats.least() else {
            self.gate.flows.fetch_sub(1, Ordering::SeqCst);
            return Ok(());
        };
        seat.flows.fetch_add(1, Ordering::Relaxed);
        let mut inbox = lock(&seat.inbox);
        inbox.push_back(socket);
        // Release: pairs with the Acquire in `has_mail`.
        seat.has_mail.store(true, Ordering::Release);
        drop(inbox);
        if !self.is_mine(seat) {
            io.wake(&seat.waker);
        }
        Ok(())
    }

    /// Returns a connection that was given to this port.
    pub(crate) fn take(&self) -> Option<Fd> {
        if !self.has_mail() {
            return None;
        }
        let mut inbox = lock(&self.seat.inbox);
        let socket = inbox.pop_front();
        // Relaxed: the lock orders it.
        self.seat.has_mail.store(!inbox.is_empty(), Ordering::Relaxed);
        socket
    }

    /// Returns true if connections wait for this port to take them.
    pub(crate) fn has_mail(&self) -> bool {
        // Acquire: pairs with the Release in `admit`; the message that wakes us comes after it.
        self.seat.has_mail.load(Ordering::Acquire)
    }

    /// Notes that a flow of this port has ended, and wakes the ports that wait for it.
    pub(crate) fn end(&self, io: &mut impl Sockets<Waker = W>) {
        self.give_back(io, 1);
    }

    /// Asks to be woken when a flow of any port ends. Whoever looks for room afterwards misses
    /// nothing.
    pub(crate) fn wait(&self) {
        self.seat.is_waiting.store(true, Ordering::SeqCst);
        // SeqCst, here, in `give_back` and for the count: this store stands before our look at the
        // count, or the end of a flow before its look at this.
        self.gate.is_waited_for.store(true, Ordering::SeqCst);
    }

    /// Returns true if no flow has ended since [`wait`](Self::wait).
    pub(crate) fn is_waiting(&self) -> bool {
        self.seat.is_waiting.load(Ordering::SeqCst)
    }

    /// Takes no more connections, and closes those that nobody has taken.
    pub(crate) fn close(&self, io: &mut impl Sockets<Waker = W>) {
        let sockets = self.close_inbox();
        if !sockets.is_empty() {
            self.give_back(io, sockets.len());
        }
    }

    fn close_inbox(&self) -> VecDeque<Fd> {
        self.gate.seats().open.retain(|seat| !self.is_mine(seat));
        // From here on nobody puts anything in.
        self.seat.has_mail.store(false, Ordering::Relaxed);
        mem::take(&mut *lock(&self.seat.inbox))
    }

    /// Gives places back, and wakes who waits for one.
    fn give_back(&self, io: &mut impl Sockets<Waker = W>, places: usize) {
        self.seat.flows.fetch_sub(places, Ordering::Relaxed);
        self.gate.flows.fetch_sub(places, Ordering::SeqCst);
        if !self.gate.is_waited_for.swap(false, Ordering::SeqCst) {
            return;
        }
        for seat in &self.gate.seats().all {
            if seat.is_waiting.swap(false, Ordering::SeqCst) && !self.is_mine(seat) {
                io.wake(&seat.waker);
            }
        }
    }

    fn is_mine(&self, seat: &Arc<Seat<W>>) -> bool {
        Arc::ptr_eq(&self.seat, seat)
    }
}

impl<W> Drop for Member<W> {
    fn drop(&mut self) {
        drop(self.close_inbox());
        self.gate.seats().all.retain(|seat| !self.is_mine(seat));
        // Nobody is woken, for want of a ring: whoever waits sees it when the next flow ends.
        let flows = self.seat.flows.load(Ordering::Relaxed);
        self.gate.flows.fetch_sub(flows, Ordering::SeqCst);
    }
}

/// Locks; what these locks guard is whole between any two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
