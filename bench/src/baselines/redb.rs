//! redb, an embedded store in Rust: a copy-on-write B-tree in one file, `Durability::Immediate`,
//! one transaction for each turn.
//!
//! What a turn appends is gathered and inserted at its end: a table is borrowed from its
//! transaction, and opening it for each record would cost more than the copy.

use std::convert::Infallible;

use ::redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{
    Start,
    engine::Variant,
    logs::Place,
    record::{HEAD, Record},
};
use crate::{
    cli::Failure,
    stages::{Stage, Stages},
};

struct Store {
    database: Database,
    /// What this turn does, its values one behind the other.
    batch: Vec<Change>,
    values: Vec<u8>,
    /// Values since the last trim.
    bytes: u64,
    bytes_max: u64,
}

#[derive(Clone, Copy)]
enum Change {
    Insert { key: u64, len: usize },
    Remove { from: u64, to: u64 },
}

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    let database = Database::create(start.dir()?.join("redb"))?;
    let bytes_max = start.geometry.region_bytes();
    let (batch, values) = (Vec::new(), Vec::new());
    start.serve(Store { database, batch, values, bytes: 0, bytes_max })
}

impl Variant for Store {
    type State = ();

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        match *record {
            // The name is the first value of a log.
            Record::Log { log, name } => Ok(self.insert(key(log, 0), &[], name.as_bytes())),
            Record::Append { log, seq, value, .. } => {
                if self.bytes > self.bytes_max {
                    self.remove(log, seq);
                }
                Ok(self.insert(key(log, seq), record.head().bytes(), value))
            }
            Record::Trim { log, first } => {
                self.remove(log, first);
                Ok(0)
            }
        }
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut table = transaction.open_table(RECORDS)?;
        let mut values = &self.values[..];
        for change in self.batch.drain(..) {
            match change {
                Change::Insert { key, len } => {
                    let (value, rest) = values.split_at(len);
                    table.insert(key, value)?;
                    values = rest;
                }
                Change::Remove { from, to } => table.retain_in(from..to, |_, _| false)?,
            }
        }
        drop(table);
        stages.charge(Stage::Copy);
        transaction.commit()?;
        stages.charge(Stage::Fence);
        self.values.clear();
        Ok(())
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        // What this turn has appended is not there yet.
        self.persist(&mut Stages::default())?;
        let found = self.database.begin_read()?.open_table(RECORDS)?.get(place.at)?;
        let value = found.as_ref().and_then(|stored| stored.value().get(HEAD..));
        out.extend_from_slice(value.unwrap_or_default());
        Ok(value.is_some())
    }
}

impl Store {
    fn insert(&mut self, key: u64, head: &[u8], value: &[u8]) -> u64 {
        self.values.extend_from_slice(head);
        self.values.extend_from_slice(value);
        self.bytes += value.len() as u64;
        self.batch.push(Change::Insert { key, len: head.len() + value.len() });
        key
    }

    fn remove(&mut self, log: u32, first: u64) {
        self.bytes = 0;
        self.batch.push(Change::Remove { from: key(log, 1), to: key(log, first) });
    }
}

/// Records of a log follow one another.
fn key(log: u32, seq: u64) -> u64 {
    u64::from(log) << 40 | seq
}

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
