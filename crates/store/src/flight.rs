//! Commits in flight: they complete in any order, and only a gap-free prefix counts (D8).

use std::collections::VecDeque;

use crate::Lsn;

#[derive(Debug)]
struct InFlight {
    last_lsn: Lsn,
    /// `first_needed` of the segment header that it carries.
    needed: Option<u64>,
    done: bool,
}

/// Commits between sealed and durable.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Number of the oldest commit of `commits`.
    first: u64,
    commits: VecDeque<InFlight>,
    durable: Lsn,
}

impl Flight {
    pub(crate) fn new(durable: Lsn) -> Self {
        Self { first: 0, commits: VecDeque::new(), durable }
    }

    /// Returns the lsn up to which everything is durable.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    /// A commit was sealed; returns its number.
    pub(crate) fn push(&mut self, last_lsn: Lsn, needed: Option<u64>) -> u64 {
        self.commits.push_back(InFlight { last_lsn, needed, done: false });
        self.first + self.commits.len() as u64 - 1
    }

    /// A commit is on the medium. Returns the highest `first_needed` that became durable with it,
    /// or with those that only waited for it.
    ///
    /// # Panics
    /// If no such commit is in flight.
    pub(crate) fn complete(&mut self, commit: u64) -> Option<u64> {
        let index = commit.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let commit = index.and_then(|index| self.commits.get_mut(index));
        commit.expect("a commit in flight completes").done = true;
        let mut needed = None;
        while let Some(done) = self.commits.pop_front_if(|commit| commit.done) {
            self.first += 1;
            self.durable = done.last_lsn;
            needed = needed.max(done.needed);
        }
        needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D8: if completion alone counted, a reply could leave whose commit lies behind a hole that a
    /// crash makes permanent.
    #[test]
    fn durable_stops_at_the_first_hole() {
        let mut flight = Flight::new(Lsn(10));
        let commits: Vec<_> = [12, 15, 16].map(|lsn| flight.push(Lsn(lsn), Some(lsn))).into();
        assert_eq!(flight.complete(commits[2]), None);
        assert_eq!(flight.durable(), Lsn(10));
        assert_eq!(flight.complete(commits[0]), Some(12));
        assert_eq!(flight.durable(), Lsn(12));
        assert_eq!(flight.complete(commits[1]), Some(16));
        assert_eq!(flight.durable(), Lsn(16));
        assert!(flight.is_empty());
    }
}
