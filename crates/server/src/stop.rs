//! A clean stop: every request that has arrived is answered, and the region says that nothing is
//! missing.

use std::{io, time::Duration};

use impasto_media::Medium;
use impasto_ring::Port;

use crate::{Enter, Worker, config::STOP_TIME, engine::Engine};

impl<I: Enter, P: Port<I>, M: Medium<I>> Worker<I, P, M> {
    /// Stops cleanly: accepts no more, answers what has arrived, makes all of it durable. When all
    /// workers have come so far, the first one writes that down.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn stop(&mut self) -> io::Result<()> {
        self.begin_stop();
        let until = self.own.now + STOP_TIME;
        while self.flows.len() > 0 && self.own.now < until {
            let left = until.saturating_duration_since(self.own.now);
            self.turn(Some(left))?;
        }
        self.locked(|turn| {
            for id in turn.flows.ids() {
                turn.close(id);
            }
            turn.engine.core.serving -= 1;
        });
        self.drain()?;
        let is_first = self.own.worker == 0;
        if is_first {
            self.locked(|turn| turn.engine.persist_clean_superblock());
            self.drain()?;
        }
        // Whoever was woken by the last turn is told with this.
        self.own.io.enter(Some(Duration::ZERO))?;
        if self.locked(|turn| turn.engine.core.store.is_read_only()) {
            return Err(io::Error::other("the medium has failed: the next start recovers"));
        }
        Ok(())
    }

    /// Accepts no more; flows that nothing was asked on are closed, the others when they are
    /// answered. Wakes the other workers, which may have to stop as well.
    pub fn begin_stop(&mut self) {
        self.own.stopping = true;
        self.locked(|turn| {
            let Engine { own, core } = &mut turn.engine;
            own.port.stop_accepting(&mut own.io);
            for peer in &core.peers {
                own.io.wake(&peer.waker);
            }
            for id in turn.flows.ids() {
                if turn.flows.get(id).is_some_and(|flow| flow.is_idle()) {
                    turn.close(id);
                } else {
                    turn.with(id, |_, _| {});
                }
            }
        });
    }

    /// Takes turns until all workers have stopped serving and all that was started is durable, or
    /// will never be.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            // Before the wait: a medium that is done at once does not end it. And the others may
            // wait for what this worker has done.
            let is_over = self.locked(|turn| {
                turn.take();
                turn.engine.core.is_over()
            });
            if is_over {
                return Ok(());
            }
            self.turn(None)?;
        }
    }
}
