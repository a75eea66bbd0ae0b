//! The store: one log on the medium, many named logs in it.
//!
//! A state machine. It opens no socket, reads no clock, issues no I/O and holds no reference into
//! the region: bytes leave through a [`Sink`] as (place, bytes), and what it needs to read it asks
//! for.
//!
//! ```text
//! apply(request) -> Effect{lsn} | Needs(load) | Wait      any number of times, in lsn order
//! seal() -> Commit                                         the medium makes it durable
//! completed(commit, ok)  ->  durable()                     replies up to it may leave
//! ```

#![forbid(unsafe_code)]

mod api;
mod flight;
mod format;
mod logs;
mod reclaim;
mod recover;
mod reserve;
mod sink;
mod space;
mod store;
mod tail;

pub use api::{
    Answer, Applied, Commit, Effect, LOG_NAME_BYTES_MAX, LOGS_MAX, Load, LogInfo, Lsn, Refusal,
    Request, Sink, Usage, Value,
};
pub use format::BadRecord;
pub use logs::INDEX_BYTES_PER_RECORD;
pub use recover::{
    Corruption, FoundRecord, FoundWhat, LogSegment, Lost, LostRecord, Rebuild, Rebuilt, Recovered,
    Recovery, Repair, States, Step, StoredValue, Survey, Unrepairable,
};
pub use reserve::BODY_BYTES_MAX;
pub use sink::FramesSink;
pub use store::Store;
