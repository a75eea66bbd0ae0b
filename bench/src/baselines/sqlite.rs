//! SQLite, as one would use it for a log: write-ahead log, `synchronous=FULL`, exclusive locking,
//! one transaction for each turn.
//!
//! The primary key is the rowid, so that a record is one insertion at the end of one B-tree. The
//! pragmas are read back: a setting that is not in force is no comparison.

use std::convert::Infallible;

use rusqlite::{Connection as Sqlite, OptionalExtension};

use super::{Start, engine::Variant, logs::Place, record::Record};
use crate::{
    cli::Failure,
    stages::{Stage, Stages},
};

#[derive(Debug)]
struct Store {
    sqlite: Sqlite,
    is_open: bool,
    /// Values since the last trim.
    bytes: u64,
    bytes_max: u64,
}

/// Returns why it would be slower than it has to be, if so.
pub(super) fn unavailable() -> Option<String> {
    let flags = option_env!("LIBSQLITE3_FLAGS").unwrap_or_default();
    let is_as_wanted = flags.contains("HAVE_FDATASYNC");
    (!is_as_wanted).then(|| {
        "SQLite was built to sync by fsync: build from inside of this project, whose \
         .cargo/config.toml says fdatasync"
            .into()
    })
}

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    let sqlite = Sqlite::open(start.dir()?.join("sqlite"))?;
    for (pragma, wanted) in PRAGMAS {
        sqlite.pragma_update(None, pragma, wanted)?;
        let found = sqlite.pragma_query_value(None, pragma, |row| row.get(0));
        let found = match found? {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        };
        if found != wanted {
            return Err(format!("SQLite has {pragma}={found}, not {wanted}").into());
        }
    }
    sqlite.execute_batch(
        "CREATE TABLE logs (log INTEGER PRIMARY KEY, name TEXT NOT NULL);
         CREATE TABLE records (key INTEGER PRIMARY KEY, checksum INTEGER, value BLOB NOT NULL);",
    )?;
    let bytes_max = start.geometry.region_bytes();
    start.serve(Store { sqlite, is_open: false, bytes: 0, bytes_max })
}

impl Variant for Store {
    type State = ();

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        if !self.is_open {
            self.execute("BEGIN IMMEDIATE", ())?;
            self.is_open = true;
        }
        match *record {
            Record::Log { log, name } => {
                self.execute("INSERT INTO logs VALUES (?, ?)", (log, name))?
            }
            Record::Append { log, seq, checksum, value } => {
                self.bytes += value.len() as u64;
                if self.bytes > self.bytes_max {
                    self.trim(log, seq)?;
                }
                let (key, checksum) = (key(log, seq), checksum.cast_signed());
                self.execute("INSERT INTO records VALUES (?, ?, ?)", (key, checksum, value))?;
                return Ok(key.cast_unsigned());
            }
            Record::Trim { log, first } => self.trim(log, first)?,
        }
        Ok(0)
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        if self.is_open {
            self.execute("COMMIT", ())?;
            self.is_open = false;
            stages.charge(Stage::Fence);
        }
        Ok(())
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        let mut select = self.sqlite.prepare_cached("SELECT value FROM records WHERE key = ?")?;
        let found = select.query_row((place.at.cast_signed(),), |row| {
            out.extend_from_slice(row.get_ref(0)?.as_blob()?);
            Ok(())
        });
        Ok(found.optional()?.is_some())
    }
}

impl Store {
    fn trim(&mut self, log: u32, first: u64) -> Result<(), Failure> {
        self.bytes = 0;
        let sql = "DELETE FROM records WHERE key >= ? AND key < ?";
        self.execute(sql, (key(log, 0), key(log, first)))
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), Failure> {
        self.sqlite.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }
}

/// Records of a log follow one another.
fn key(log: u32, seq: u64) -> i64 {
    i64::from(log) << 40 | seq.cast_signed()
}

/// Each with what it says when it is in force; 2 is `FULL`, a cache of 64 MiB is counted in KiB.
const PRAGMAS: [(&str, &str); 4] = [
    ("locking_mode", "exclusive"),
    ("journal_mode", "wal"),
    ("synchronous", "2"),
    ("cache_size", "-65536"),
];
