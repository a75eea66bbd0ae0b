//! What `impasto inspect` has found, as `--json` has it.

use std::fmt;

use impasto::{
    region::{
        Examined,
        layout::{BUF_BYTES, BUFS_PER_SEGMENT, Superblock, SuperblockError},
    },
    store::{FoundRecord, FoundWhat, Lost, Recovered, Survey},
};
use serde::Serialize;

use super::map::State;
use crate::cli::damage::Damage;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) region: String,
    #[serde(skip)]
    pub(super) dir: String,
    #[serde(flatten)]
    pub(super) about: Option<About>,
    pub(super) superblocks: Vec<Copy>,
    #[serde(flatten)]
    pub(super) found: Option<Found>,
    pub(super) damage: Vec<Damage>,
    pub(super) read_bytes: u64,
    pub(super) seconds: f64,
}

/// What the superblock says that holds.
#[derive(Debug, Serialize)]
pub(super) struct About {
    pub(super) uuid: String,
    pub(super) bytes: u64,
    pub(super) segments: u64,
    pub(super) medium: &'static str,
    pub(super) clean: bool,
    pub(super) epoch: u64,
    pub(super) start_lsn: u64,
    pub(super) durable_lsn: u64,
    pub(super) first_needed: u64,
    pub(super) compat: u64,
    pub(super) ro_compat: u64,
}

/// A superblock's place, and what stands there.
#[derive(Debug, Serialize)]
pub(super) struct Copy {
    pub(super) copy: usize,
    generation: Option<u64>,
    holds: bool,
    error: Option<String>,
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.generation, &self.error) {
            (Some(generation), _) => {
                write!(f, "generation {generation}{}", if self.holds { ", holds" } else { "" })
            }
            (None, Some(error)) => write!(f, "damaged: {error}"),
            (None, None) => write!(f, "not written yet"),
        }
    }
}

/// What recovery makes of the region.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    pub(super) buffers: Buffers,
    pub(super) log: Log,
    pub(super) logs: Vec<NamedLog>,
    #[serde(rename = "records")]
    pub(super) recent: Vec<Record>,
    /// A letter for each buffer.
    map: String,
    #[serde(skip)]
    states: Vec<State>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Buffers {
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) landing: u64,
    pub(super) log: u64,
    pub(super) kept: u64,
    pub(super) sparse: u64,
    pub(super) damaged: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Log {
    pub(super) segments: Vec<Segment>,
    pub(super) next_lsn: u64,
    pub(super) end_offset: u64,
}

impl Log {
    pub(super) fn commits(&self) -> u64 {
        self.segments.iter().map(|segment| segment.commits).sum()
    }

    pub(super) fn entries(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries).sum()
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Segment {
    pub(super) chain: u64,
    pub(super) segment: u32,
    pub(super) epoch: u64,
    pub(super) first_lsn: u64,
    pub(super) commits: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct NamedLog {
    pub(super) name: String,
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// One of the newest records.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) lsn: u64,
    pub(super) kind: &'static str,
    pub(super) log: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// 0 if the value stands in the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    extents: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

impl Report {
    pub(super) fn without_superblock(region: &Examined, damage: Damage) -> Self {
        let (found, damage) = (None, vec![damage]);
        let superblocks = copies(region, None);
        Self { about: None, superblocks, found, damage, ..Self::named(region) }
    }

    pub(super) fn new(region: &Examined, superblock: &Superblock) -> Self {
        let about = About {
            uuid: superblock.uuid.to_string(),
            bytes: superblock.geometry.region_bytes(),
            segments: superblock.geometry.segments().into(),
            medium: superblock.medium.name(),
            clean: superblock.clean,
            epoch: superblock.epoch,
            start_lsn: superblock.start_lsn,
            durable_lsn: superblock.durable_lsn,
            first_needed: superblock.first_needed,
            compat: superblock.compat,
            ro_compat: superblock.ro_compat,
        };
        let superblocks = copies(region, Some(superblock));
        Self { about: Some(about), superblocks, ..Self::named(region) }
    }

    fn named(region: &Examined) -> Self {
        let dir = region.path().parent().map_or_else(String::new, |dir| dir.display().to_string());
        Self {
            region: region.path().display().to_string(),
            dir,
            about: None,
            superblocks: Vec::new(),
            found: None,
            damage: Vec::new(),
            read_bytes: 0,
            seconds: 0.0,
        }
    }
}

fn copies(region: &Examined, holds: Option<&Superblock>) -> Vec<Copy> {
    let blank = |copy: usize, error: &SuperblockError| {
        copy == 1 && *error == SuperblockError::Magic && region.second_is_blank()
    };
    let copies = region.copies().into_iter().enumerate();
    let copies = copies.map(|(copy, found)| match found {
        Ok(found) => Copy {
            copy,
            generation: Some(found.generation),
            holds: holds == Some(&found),
            error: None,
        },
        Err(error) => {
            let error = (!blank(copy, &error)).then(|| error.to_string());
            Copy { copy, generation: None, holds: false, error }
        }
    });
    copies.collect()
}

impl Found {
    /// `lost` is what a damaged log loses.
    pub(super) fn new(survey: &Survey, recovered: &Recovered, lost: Option<&Lost>) -> Self {
        let names: Vec<_> = recovered.logs().map(|(name, _)| name).collect();
        let mut logs: Vec<_> = recovered
            .logs()
            .map(|(name, found)| NamedLog {
                name: name.to_owned(),
                first: found.first,
                next: found.next,
                records: found.records,
                bytes: found.bytes,
            })
            .collect();
        logs.sort_by(|one, other| (other.bytes, &one.name).cmp(&(one.bytes, &other.name)));
        let states = states(survey, recovered, lost);
        Self {
            buffers: Buffers::count(&states),
            log: Log {
                segments: survey.segments.iter().map(Segment::from).collect(),
                next_lsn: survey.next_lsn.0,
                end_offset: survey.end_offset,
            },
            logs,
            recent: survey.recent.iter().map(|record| Record::new(record, &names)).collect(),
            map: states.iter().map(|state| state.letter()).collect(),
            states,
        }
    }

    pub(super) fn states(&self) -> &[State] {
        &self.states
    }
}

/// Returns the state of each buffer.
fn states(survey: &Survey, recovered: &Recovered, lost: Option<&Lost>) -> Vec<State> {
    let bufs = recovered.superblock.geometry.bufs() as usize;
    let mut live = vec![0; bufs];
    for value in recovered.values().filter(|value| !value.loaded) {
        for extent in &value.extents {
            if let Some(live) = live.get_mut(extent.buf.0 as usize) {
                *live += u64::from(extent.len);
            }
        }
    }
    let kept = |&live: &u64| match live {
        0 => State::Free,
        live if live < u64::from(BUF_BYTES) / 4 => State::Sparse,
        _ => State::Kept,
    };
    let mut states: Vec<_> = live.iter().map(kept).collect();
    let mut mark = |segment: u32, state| {
        let first = (segment * BUFS_PER_SEGMENT) as usize;
        let end = (first + BUFS_PER_SEGMENT as usize).min(bufs);
        states[first..end].fill(state);
    };
    survey.segments.iter().for_each(|segment| mark(segment.segment.0, State::Log));
    let damaged = lost.iter().flat_map(|lost| &lost.segments);
    damaged.for_each(|segment| mark(segment.0, State::Damaged));
    states
}

impl Buffers {
    fn count(states: &[State]) -> Self {
        let of = |wanted| states.iter().filter(|state| **state == wanted).count() as u64;
        Self {
            total: states.len() as u64,
            free: of(State::Free),
            landing: 0,
            log: of(State::Log),
            kept: of(State::Kept),
            sparse: of(State::Sparse),
            damaged: of(State::Damaged),
        }
    }
}

impl From<&impasto::store::LogSegment> for Segment {
    fn from(segment: &impasto::store::LogSegment) -> Self {
        Self {
            chain: segment.chain,
            segment: segment.segment.0,
            epoch: segment.epoch,
            first_lsn: segment.first_lsn.0,
            commits: segment.commits,
            entries: segment.records,
            bytes: segment.bytes,
        }
    }
}

impl Record {
    fn new(record: &FoundRecord, names: &[&str]) -> Self {
        let log = names.get(record.log as usize).copied().unwrap_or_default().to_owned();
        let blank = Self {
            lsn: record.lsn.0,
            kind: "append",
            log,
            seq: None,
            bytes: None,
            extents: None,
            first: None,
            next: None,
        };
        match record.what {
            FoundWhat::Append { seq, bytes, extents, .. } => {
                Self { seq: Some(seq), bytes: Some(bytes.into()), extents: Some(extents), ..blank }
            }
            FoundWhat::Trim { first } => Self { kind: "trim", first: Some(first), ..blank },
            FoundWhat::State { first, next, .. } => {
                Self { kind: "log", first: Some(first), next: Some(next), ..blank }
            }
        }
    }

    /// Returns what the record says, for people.
    pub(super) fn what(&self) -> String {
        let Self { seq, bytes, extents, first, next, .. } = self;
        match (seq, bytes, extents, first, next) {
            (Some(seq), Some(bytes), Some(0), ..) => format!("record {seq}: {bytes} bytes, inline"),
            (Some(seq), Some(bytes), Some(1), ..) => {
                format!("record {seq}: {bytes} bytes in 1 extent")
            }
            (Some(seq), Some(bytes), Some(extents), ..) => {
                format!("record {seq}: {bytes} bytes in {extents} extents")
            }
            (_, _, _, Some(first), Some(next)) if first == next => {
                format!("is empty; the next record gets {next}")
            }
            (_, _, _, Some(first), Some(next)) => format!("has records {first} to {}", next - 1),
            (_, _, _, Some(first), None) => format!("trimmed: starts at {first}"),
            _ => String::new(),
        }
    }
}
