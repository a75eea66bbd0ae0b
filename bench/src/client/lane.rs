//! A lane: one connection after another, and what is still to be sent on it.

use crate::connection::Connection;

/// A place for a connection.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The one that is open, if one is.
    pub(super) connection: Option<Connection>,
    /// Connections in a row that gave no reply.
    pub(super) fruitless: u32,
    /// True if it was given up: what fails at once would fail for ever.
    pub(super) is_dead: bool,
    /// Requests whose time has come and that are not sent.
    pub(super) owed: u64,
    /// Requests of the schedule that were sent.
    pub(super) sent: u64,
}

impl Lane {
    /// Returns the number of requests on the way.
    pub(super) fn outstanding(&self) -> usize {
        self.connection.as_ref().map_or(0, Connection::outstanding)
    }

    /// Returns true if a reply is awaited, of whatever kind.
    pub(super) fn awaits(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.oldest().is_some())
    }

    /// Ends the connection, and with it the lane if too many in a row were good for nothing.
    pub(super) fn end(&mut self, fruitless_max: u32) -> Option<Connection> {
        let old = self.connection.take()?;
        self.fruitless = if old.replied > 0 { 0 } else { self.fruitless + 1 };
        self.is_dead = self.fruitless > fruitless_max;
        Some(old)
    }
}
