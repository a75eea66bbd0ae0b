//! Opens connections, and opens them again.

use std::{io, time::Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Turns;
use crate::{
    client::{Plan, Work},
    connection::{Broken, Connection},
    outcome::LoadError,
};

impl Turns<'_> {
    /// Opens the connection of a lane and waits for it.
    pub(super) fn connect(&mut self, lane: usize) -> Result<(), LoadError> {
        let Plan { target, pipeline, patience, .. } = *self.plan;
        let speaker = self.work(lane).speaker(target);
        let failed = |error| LoadError::Connect { target, error };
        let connection = Connection::open(target, speaker, pipeline, patience).map_err(failed)?;
        self.enter(lane, connection).map_err(failed)
    }

    /// Starts to open the connection of a lane. One that cannot even be started is given up.
    fn begins_to_connect(&mut self, lane: usize) -> bool {
        let begun = self.begin_to_connect(lane);
        if let Err(error) = begun {
            let target = self.plan.target;
            self.outcome.errors.refused += 1;
            self.outcome.errors.note(&LoadError::Connect { target, error });
            self.lanes[lane].is_dead = true;
            return false;
        }
        true
    }

    fn begin_to_connect(&mut self, lane: usize) -> io::Result<()> {
        let speaker = self.work(lane).speaker(self.plan.target);
        let connection = Connection::begin(self.plan.target, speaker)?;
        self.enter(lane, connection)
    }

    fn enter(&mut self, lane: usize, mut connection: Connection) -> io::Result<()> {
        epoll::add(&self.epoll, connection.stream(), name(lane), wanted())?;
        if !self.plan.short {
            connection.write();
        }
        self.lanes[lane].connection = Some(connection);
        Ok(())
    }

    /// Has what is there already told of once more.
    pub(super) fn listen_again(&mut self, lane: usize) {
        let Some(connection) = &self.lanes[lane].connection else { return };
        if let Err(error) = epoll::modify(&self.epoll, connection.stream(), name(lane), wanted()) {
            self.reopen(lane, Some(&Broken::Failed(error.into())));
        }
    }

    fn work(&self, lane: usize) -> &Work {
        match &self.trim {
            Some(trim) if lane == self.plan.connections => trim,
            _ => &self.plan.work,
        }
    }

    /// Returns true if there is a connection to send on; opens one if it is a short one's time.
    pub(super) fn is_ready(&mut self, lane: usize) -> bool {
        if self.lanes[lane].connection.is_some() {
            return true;
        }
        if !self.plan.short || self.lanes[lane].is_dead {
            return false;
        }
        self.begins_to_connect(lane)
    }

    /// Ends a short connection that was answered, and opens the next one.
    pub(super) fn next_short(&mut self, lane: usize) {
        let _closed = self.lanes[lane].end(FRUITLESS_SHORT_MAX);
        self.ask(lane, 1, Instant::now());
    }

    /// Drops the connection of a lane, counts what that loses, and opens another one if the old one
    /// was good for anything.
    pub(super) fn reopen(&mut self, lane: usize, broken: Option<&Broken>) {
        let is_short = self.plan.short && lane < self.plan.connections;
        let fruitless_max = if is_short { FRUITLESS_SHORT_MAX } else { 0 };
        let Some(old) = self.lanes[lane].end(fruitless_max) else { return };
        let errors = &mut self.outcome.errors;
        let malformed = matches!(broken, Some(Broken::Malformed(_) | Broken::Unasked));
        errors.malformed += u64::from(malformed);
        // What is malformed was the reply to one of them.
        let lost = old.outstanding().saturating_sub(usize::from(malformed)) as u64;
        errors.lost += lost;
        // With nothing on the way, a server may close whenever it likes.
        if let Some(broken) = broken
            && (malformed || lost > 0)
        {
            errors.note(broken);
        }
        drop(old);
        if let Some(broken) = broken
            && !malformed
            && lost == 0
            && self.lanes[lane].is_dead
            && self.has_more()
        {
            self.outcome.errors.refused += 1;
            self.outcome.errors.note(broken);
        }
        if self.lanes[lane].is_dead || !(self.has_more() || self.lanes[lane].owed > 0) {
            return;
        }
        // Not waited for: a server that takes no connection any more keeps nobody else waiting.
        if !is_short && self.begins_to_connect(lane) {
            self.outcome.reopened += u64::from(broken.is_none());
        }
        if lane < self.plan.connections {
            self.ask(lane, self.depth(), Instant::now());
        }
    }
}

fn name(lane: usize) -> EventData {
    EventData::new_u64(lane as u64)
}

/// Edges: one event for each arrival, and none to be taken back.
fn wanted() -> EventFlags {
    EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
}

/// Of short connections, one now and then may be refused.
const FRUITLESS_SHORT_MAX: u32 = 10;
