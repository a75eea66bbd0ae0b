//! A clean stop: every request that has arrived is answered, and the region says that nothing is
//! missing.

use std::io;

use impasto_media::Medium;
use impasto_ring::Port;

use crate::{Enter, Worker, config::STOP_TIME};

impl<I: Enter, P: Port<I>, M: Medium<I>> Worker<I, P, M> {
    /// Stops cleanly: accepts no more, answers what has arrived, makes all of it durable and says
    /// so.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn stop(&mut self) -> io::Result<()> {
        self.begin_stop();
        let until = self.engine.now + STOP_TIME;
        while self.flows.len() > 0 && self.engine.now < until {
            let left = until.saturating_duration_since(self.engine.now);
            self.turn(Some(left))?;
        }
        for id in self.flows.ids() {
            self.close(id);
        }
        self.drain()?;
        if !self.engine.store.is_read_only() {
            let superblock = self.engine.store.clean_superblock();
            self.engine.persist_superblock(&superblock);
            self.drain()?;
        }
        if self.engine.store.is_read_only() {
            return Err(io::Error::other("the medium has failed: the next start recovers"));
        }
        Ok(())
    }

    /// Accepts no more; flows that nothing was asked on are closed, the others when they are
    /// answered.
    pub fn begin_stop(&mut self) {
        self.engine.stopping = true;
        self.engine.port.stop_accepting(&mut self.engine.io);
        for id in self.flows.ids() {
            if self.flows.get(id).is_some_and(|flow| flow.is_idle()) {
                self.close(id);
            } else {
                self.with(id, |_, _| {});
            }
        }
    }

    /// Takes turns until all that was started is durable, or will never be.
    fn drain(&mut self) -> io::Result<()> {
        while !self.engine.is_quiet() {
            self.turn(None)?;
        }
        Ok(())
    }
}
