//! What a worker waits on, and what ends its wait: nothing but what would end a real one.
//!
//! A turn that would wait is not taken: [`Io::enter`] says `WouldBlock` instead, and the worker is
//! asked again later. So whoever forgets to wake a worker is seen: it waits for ever.

use std::{cell::Cell, collections::BTreeSet, io, rc::Rc, time::Duration};

use impasto_media::{Dev, DevToken, Durability};
use impasto_region::{BufId, Frames, Span};
use impasto_ring::{FlowId, LoopPeer, LoopPort, Port, Ring, Sent, Transmit};
use impasto_server::Enter;
use impasto_sim::SimDev;

/// What one worker waits on.
#[derive(Debug, Default)]
pub(crate) struct Io {
    dev: Option<SimDev>,
    /// Operations of the device that this worker has started and not seen the end of.
    started: BTreeSet<DevToken>,
    /// Its clients; none while the region is started.
    peer: Option<LoopPeer>,
    /// What has arrived has no buffer to land in.
    is_stuck: bool,
    /// A transmit has ended whose end is awaited.
    has_sent: bool,
    woken: Rc<Cell<bool>>,
    /// It wakes nobody.
    drops_wakes: bool,
}

impl Io {
    /// Returns what a worker waits on before it has clients.
    pub(crate) fn new(dev: Option<SimDev>, drops_wakes: bool) -> Self {
        Self { dev, drops_wakes, ..Self::default() }
    }

    /// Returns what a worker with these clients waits on: a turn that would wait is not taken.
    pub(crate) fn serving(&self, peer: LoopPeer) -> Self {
        assert!(self.started.is_empty(), "the start has seen the end of all it has started");
        Self { peer: Some(peer), ..Self::new(self.dev.clone(), self.drops_wakes) }
    }

    /// Something has completed at once.
    pub(crate) fn wake_self(&self) {
        self.woken.set(true);
    }

    fn has_news(&self) -> bool {
        let arrived = !self.is_stuck && self.peer.as_ref().is_some_and(LoopPeer::has_arrivals);
        let completed = |dev: &SimDev| dev.has_completed(|token| self.started.contains(&token));
        arrived || self.has_sent || self.woken.get() || self.dev.as_ref().is_some_and(completed)
    }
}

impl Enter for Io {
    type Waker = Rc<Cell<bool>>;

    fn waker(&self) -> io::Result<Self::Waker> {
        Ok(Rc::clone(&self.woken))
    }

    fn wake(&mut self, waker: &Self::Waker) {
        waker.set(!self.drops_wakes);
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        if self.peer.is_none() {
            return Ok(self.dev.as_ref().is_none_or(SimDev::step));
        }
        if !self.has_news() && timeout != Some(Duration::ZERO) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.has_sent = false;
        self.woken.set(false);
        Ok(true)
    }
}

/// The device, as several workers see it: each the end of what it has started.
#[derive(Debug)]
pub(crate) struct Routed(pub(crate) SimDev);

impl Dev<Io> for Routed {
    fn write(&mut self, io: &mut Io, frames: &Frames, span: Span, how: Durability) -> DevToken {
        let token = self.0.write(io, frames, span, how);
        io.started.insert(token);
        token
    }

    fn sync(&mut self, io: &mut Io) -> DevToken {
        let token = Dev::<Io>::sync(&mut self.0, io);
        io.started.insert(token);
        token
    }

    fn read(&mut self, io: &mut Io, frames: &mut Frames, span: Span) -> DevToken {
        let token = self.0.read(io, frames, span);
        io.started.insert(token);
        token
    }

    fn poll(&mut self, io: &mut Io, frames: &mut Frames) -> Option<(DevToken, io::Result<()>)> {
        let (token, result) = self.0.poll_of(frames, |token| io.started.contains(&token))?;
        io.started.remove(&token);
        Some((token, result))
    }
}

/// The port of one worker, which says what ends the worker's wait.
#[derive(Debug)]
pub(crate) struct Wired(pub(crate) LoopPort);

impl Port<Io> for Wired {
    fn receive(&mut self, io: &mut Io, frames: &mut Frames) {
        self.0.receive(io, frames);
        // What has no slot is taken in the next turn, what has no buffer not before there is one.
        io.is_stuck = self.0.peer().has_arrivals() && Port::<Io>::ring(&mut self.0).room() > 0;
    }

    fn ring(&mut self) -> &mut Ring {
        Port::<Io>::ring(&mut self.0)
    }

    fn transmit(&mut self, io: &mut Io, frames: &Frames, flow: FlowId, transmit: Transmit) {
        self.0.transmit(io, frames, flow, transmit);
        io.has_sent = true;
    }

    fn transmit_quiet(&mut self, io: &mut Io, frames: &Frames, flow: FlowId, transmit: Transmit) {
        self.0.transmit(io, frames, flow, transmit);
    }

    fn sent(&mut self) -> Option<Sent> {
        Port::<Io>::sent(&mut self.0)
    }

    fn stop(&mut self, io: &mut Io, flow: FlowId) {
        self.0.stop(io, flow);
        io.is_stuck = false;
    }

    fn direct(&mut self, io: &mut Io, frames: &mut Frames, flow: FlowId, span: Span) {
        self.0.direct(io, frames, flow, span);
        io.is_stuck = false;
    }

    fn pause(&mut self, io: &mut Io, flow: FlowId) {
        self.0.pause(io, flow);
    }

    fn resume(&mut self, io: &mut Io, flow: FlowId) {
        self.0.resume(io, flow);
        io.is_stuck = false;
    }

    fn shut(&mut self, io: &mut Io, flow: FlowId) {
        self.0.shut(io, flow);
    }

    fn close(&mut self, io: &mut Io, flow: FlowId) {
        self.0.close(io, flow);
        // What was directed is settled in the next turn.
        io.is_stuck = false;
    }

    fn stop_accepting(&mut self, io: &mut Io) {
        self.0.stop_accepting(io);
    }

    fn drained(&mut self) -> Option<BufId> {
        Port::<Io>::drained(&mut self.0)
    }

    fn provide(&mut self, io: &mut Io, frames: &mut Frames, buf: BufId) {
        self.0.provide(io, frames, buf);
        io.is_stuck = false;
    }
}
