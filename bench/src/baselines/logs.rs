//! Which logs there are, and where their records are.

use std::collections::{HashMap, VecDeque};

/// All logs, by path.
#[derive(Debug, Default)]
pub(super) struct Logs {
    numbers: HashMap<String, u32>,
    logs: Vec<Log>,
    /// Most likely it is the same one again.
    last: usize,
}

/// A log: its records, the first one first.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) number: u32,
    path: String,
    /// The number of its first record.
    pub(super) first: u64,
    pub(super) records: VecDeque<Place>,
}

/// A record as its log knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where its value is: only the variant knows what that means.
    pub(super) at: u64,
    pub(super) checksum: u64,
    pub(super) len: u32,
}

impl Place {
    pub(super) fn new(at: u64, checksum: u64, len: usize) -> Self {
        Self { at, checksum, len: u32::try_from(len).expect("a value is short") }
    }
}

impl Logs {
    /// Returns a log.
    pub(super) fn find(&mut self, path: &str) -> Option<&mut Log> {
        if self.logs.get(self.last).is_none_or(|log| log.path != path) {
            self.last = usize::try_from(*self.numbers.get(path)?).expect("logs are few");
        }
        self.logs.get_mut(self.last)
    }

    /// Returns true if no log has a record.
    pub(super) fn are_empty(&self) -> bool {
        self.logs.iter().all(|log| log.records.is_empty())
    }

    /// Makes a log, and returns its number.
    pub(super) fn create(&mut self, path: &str) -> u32 {
        let number = u32::try_from(self.logs.len()).expect("logs are few");
        self.numbers.insert(path.to_owned(), number);
        let (path, records) = (path.to_owned(), VecDeque::new());
        self.logs.push(Log { number, path, first: 1, records });
        number
    }
}

impl Log {
    /// Returns the number of the record that is next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Returns record `seq`.
    pub(super) fn record(&self, seq: u64) -> Option<Place> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.records.get(index).copied()
    }

    /// Forgets all records before `before`; returns the number of the first one that is left.
    pub(super) fn trim(&mut self, before: u64) -> u64 {
        let gone = before.clamp(self.first, self.next()) - self.first;
        self.records.drain(..usize::try_from(gone).expect("no more than there are"));
        self.first += gone;
        self.first
    }

    /// Returns the length of all its values.
    pub(super) fn bytes(&self) -> u64 {
        self.records.iter().map(|place| u64::from(place.len)).sum()
    }
}
