//! What a repair does, and what is lost with it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use impasto::{
    region::{
        Error, Examined, Frames, SegmentId, Span,
        layout::{BLOCK_BYTES, MediumKind, Superblock},
    },
    store::{Corruption, FoundWhat, Lost, LostRecord, Rebuilt, Recovered, Recovery, Repair},
};
use serde::Serialize;

use super::{super::Failure, rebuild};
use crate::cli::{
    args::size_text,
    check::{Checked, Values},
    damage::Damage,
    reader::Reader,
};

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// For people, one line each.
    actions: Vec<String>,
    /// To be written one after the other, last.
    pub(super) superblocks: Vec<Superblock>,
    /// To be written once more before that, as it is: it may stand in a cache only (D3).
    pub(super) hardened: Vec<Span>,
    pub(super) repair: Option<Repair>,
    /// With what the repair writes.
    pub(super) frames: Frames,
    pub(super) lost: Vec<LostValue>,
    unreadable: Vec<(u64, u64)>,
    lost_after: Option<u64>,
    made_up: Vec<String>,
    again: Vec<Again>,
    back: Vec<Back>,
    /// Values that stay, and answer 500.
    pub(super) values: Vec<Damage>,
    superblock: Superblock,
}

/// A record that is lost, and can still be read.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LostValue {
    lsn: u64,
    /// `None` if the log's name is lost, too.
    pub(super) log: Option<String>,
    pub(super) seq: u64,
    bytes: u32,
    #[serde(skip)]
    pub(super) record: LostRecord,
}

/// Numbers of a log that are given out again.
#[derive(Clone, Debug, Serialize)]
struct Again {
    /// `None` for logs whose names are lost: under its name, one starts anew.
    log: Option<String>,
    from: u64,
    /// False if nobody knows whether a record had one of them: some cannot be read.
    certain: bool,
}

/// Records of a log that were trimmed, and are there again.
#[derive(Clone, Debug, Serialize)]
struct Back {
    log: String,
    first: u64,
    last: u64,
}

impl Plan {
    /// Returns true if nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.superblocks.is_empty()
    }
}

/// Returns the first block of a segment.
pub(super) const fn head(segment: SegmentId) -> Span {
    Span::new(segment.start(), BLOCK_BYTES)
}

/// Finds out what is to be done; an error if that cannot be.
pub(super) fn make(region: &Examined, medium: Option<MediumKind>) -> Result<Plan, Failure> {
    let reader = Reader::new(region);
    let Base { superblock, superblocks, mut actions } = base(region, &reader, medium)?;
    let mut frames = Frames::anonymous(superblock.geometry, 0)?;
    let mut recovery = Recovery::new(superblock);
    if !superblocks.is_empty() {
        recovery = recovery.beside_damage();
    }
    let (mut recovery, found) = reader.recover(recovery, &mut frames, &mut |_| {});
    let lost = match found {
        Ok(()) => None,
        Err(corruption @ (Corruption::Missing { .. } | Corruption::MissingSegment { .. })) => {
            actions.push(format!("the log is cut before its first damage: {corruption}"));
            Some(recovery.cut(&frames).map_err(|error| cannot(region, &error))?)
        }
        Err(corruption) => return Err(cannot(region, &corruption)),
    };
    let recovered = recovery.finish(&frames).map_err(|error| cannot(region, &error))?;
    let Checked { damaged: values, .. } =
        Values::new(&recovered, &frames).check(&reader, &mut |_| {});
    let mut plan = Plan {
        actions,
        superblocks,
        hardened: Vec::new(),
        repair: None,
        frames,
        lost: Vec::new(),
        unreadable: Vec::new(),
        lost_after: None,
        made_up: Vec::new(),
        again: Vec::new(),
        back: Vec::new(),
        values,
        superblock,
    };
    if lost.is_none()
        && let Some(last) = plan.superblocks.last_mut()
    {
        // As a run does that appends nothing: what it shows is durable, and its past fenced off.
        plan.hardened = recovered.unwitnessed().to_vec();
        *last = Superblock { clean: true, ..recovered.superblock };
    }
    if let Some(lost) = lost {
        // The last that was acknowledged is known only if the log was sealed.
        let superblock = &plan.superblock;
        let sealed = superblock.clean && plan.superblocks.is_empty();
        let is_known = sealed && superblock.durable_lsn == lost.last.0;
        plan.lost_after = (!is_known).then_some(lost.last.0);
        plan.count_losses(&lost, &recovered);
        plan.add_cut(region, recovered)?;
    }
    Ok(plan)
}

/// What a repair starts from.
struct Base {
    superblock: Superblock,
    /// To be written, if a copy is damaged.
    superblocks: Vec<Superblock>,
    /// For people, one line each.
    actions: Vec<String>,
}

/// Returns the superblock that holds, or one that is made up.
fn base(
    region: &Examined,
    reader: &Reader<'_>,
    medium: Option<MediumKind>,
) -> Result<Base, Failure> {
    let mut actions = Vec::new();
    let mut superblocks = Vec::new();
    let superblock = match region.superblock() {
        Ok((found, damaged)) => {
            refuse_newer(region, &found)?;
            if let Some((copy, why)) = damaged {
                actions.push(format!("superblock {copy} is written anew ({why})"));
                superblocks.push(Superblock { generation: found.generation + 1, ..found });
            }
            found
        }
        Err(Error::Damaged { .. } | Error::Foreign { .. }) => {
            let Rebuilt { superblock: made, missing } = rebuild(region, reader, medium)?;
            actions.push(format!(
                "both superblocks are made anew from the log: region {}, served on {}, not \
                 stopped cleanly; nobody bears witness for its last commits any more",
                made.uuid,
                made.medium.name()
            ));
            if let Some((from, to)) = missing {
                actions.push(format!(
                    "segments {from} to {to} of the log are not there: the log starts behind them. \
                     Freed, most often; if not, what stood there is lost"
                ));
            }
            superblocks = vec![made, Superblock { generation: made.generation + 1, ..made }];
            made
        }
        Err(error) => return Err(cannot(region, &error)),
    };
    Ok(Base { superblock, superblocks, actions })
}

fn refuse_newer(region: &Examined, superblock: &Superblock) -> Result<(), Failure> {
    match superblock.ro_compat {
        0 => Ok(()),
        bits => Err(format!(
            "cannot repair {}: unknown format bits {bits:#x} for writers; a newer impasto wrote \
             it, and has to repair it",
            region.path().display()
        )
        .into()),
    }
}

fn cannot(region: &Examined, why: &dyn fmt::Display) -> Failure {
    let path = region.path().display();
    format!("cannot repair {path}: {why}: this is no damage that a repair knows").into()
}

impl Plan {
    fn add_cut(&mut self, region: &Examined, recovered: Recovered) -> Result<(), Failure> {
        let states = recovered.states_to_append();
        let repair = recovered.into_repair(&mut self.frames);
        let repair = repair.map_err(|error| {
            Failure::from(format!("cannot repair {}: {error}", region.path().display()))
        })?;
        if states > 0 {
            self.actions.push(format!(
                "the state of {states} log{} that stood behind the cut, or says which number is \
                 next, is appended",
                if states == 1 { "" } else { "s" }
            ));
        }
        self.actions.push(format!(
            "superblock {} starts epoch {}: what stands behind the cut is void",
            repair.superblock.copy(),
            repair.superblock.epoch
        ));
        // Of the others nothing is left to be said.
        self.superblocks.truncate(usize::from(self.superblocks.len() == 2));
        self.superblocks.push(repair.superblock);
        self.repair = Some(repair);
        Ok(())
    }

    fn count_losses(&mut self, lost: &Lost, recovered: &Recovered) {
        self.unreadable = lost.unreadable.iter().map(|(from, to)| (from.0, to.0)).collect();
        self.made_up = recovered.names_made_up().map(str::to_owned).collect();
        let infos: HashMap<_, _> = recovered.logs().collect();
        let (mut again, mut back) = (BTreeMap::new(), BTreeMap::new());
        for record in &lost.records {
            let log = recovered.log_of(record).map(str::to_owned);
            let kept = log.as_deref().and_then(|log| infos.get(log));
            match record.what {
                FoundWhat::Append { seq, bytes, .. } => {
                    if let (Some(log), Some(kept)) = (&log, kept)
                        && seq >= kept.next
                    {
                        again.insert(log.clone(), kept.next);
                    }
                    let (lsn, record) = (record.lsn.0, record.clone());
                    self.lost.push(LostValue { lsn, log, seq, bytes, record });
                }
                FoundWhat::Trim { first } | FoundWhat::State { first, .. } => {
                    if let (Some(log), Some(kept)) = (log, kept)
                        && first > kept.first
                        && kept.records > 0
                    {
                        back.insert(log, (kept.first, first.min(kept.next) - 1));
                    }
                }
            }
        }
        self.again = again_of(recovered, &again, !self.unreadable.is_empty());
        if self.lost.iter().any(|lost| lost.log.is_none()) {
            self.again.push(Again { log: None, from: 1, certain: true });
        }
        let back = back.into_iter().map(|(log, (first, last))| Back { log, first, last });
        self.back = back.collect();
    }
}

/// Returns whose numbers are given out again, of which some are known.
fn again_of(recovered: &Recovered, known: &BTreeMap<String, u64>, doubt: bool) -> Vec<Again> {
    let logs = recovered.logs().filter_map(|(log, found)| {
        let certain = known.contains_key(log);
        (certain || doubt).then(|| Again { log: Some(log.to_owned()), from: found.next, certain })
    });
    logs.collect()
}

/// What is told, as `--json` has it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    region: String,
    #[serde(skip)]
    about: String,
    #[serde(skip)]
    dir: String,
    pub(super) applied: bool,
    actions: Vec<String>,
    lost: Vec<LostValue>,
    /// Ranges of lsn of which nothing can be read.
    lost_unreadable: Vec<(u64, u64)>,
    /// Whatever stood behind this lsn is lost, too, and nobody knows whether anything did.
    lost_after: Option<u64>,
    /// Names that were made up for logs whose own are lost.
    names_made_up: Vec<String>,
    given_out_again: Vec<Again>,
    trimmed_and_back: Vec<Back>,
    damaged_values: Vec<Damage>,
    /// Files that `--export` wrote.
    pub(super) exported: Vec<String>,
}

impl Report {
    pub(super) fn new(region: &Examined, plan: &Plan) -> Self {
        let superblock = &plan.superblock;
        let dir = region.path().parent().map_or_else(String::new, |dir| dir.display().to_string());
        Self {
            region: region.path().display().to_string(),
            about: format!(
                "{} on {}",
                size_text(superblock.geometry.region_bytes()),
                superblock.medium.name()
            ),
            dir,
            applied: false,
            actions: plan.actions.clone(),
            lost: plan.lost.clone(),
            lost_unreadable: plan.unreadable.clone(),
            lost_after: plan.lost_after,
            names_made_up: plan.made_up.clone(),
            given_out_again: plan.again.clone(),
            trimmed_and_back: plan.back.clone(),
            damaged_values: plan.values.clone(),
            exported: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.region, self.about)?;
        list(f, if self.applied { "done" } else { "to be done" }, &self.actions, Clone::clone)?;
        let range = |&(from, to): &(u64, u64)| match to - from {
            0 => format!("lsn {from}: nothing of it can be read"),
            more => format!("lsn {from} to {to}: nothing of these {} can be read", more + 1),
        };
        list(f, "lost with their logs and numbers", &self.lost_unreadable, range)?;
        list(f, "lost, and can be read as long as nothing is done", &self.lost, |lost| {
            let LostValue { lsn, log, seq, bytes, .. } = lost;
            let log = log.as_deref().unwrap_or("whose name is lost");
            format!("lsn {lsn}: record {seq} of log {log}, {bytes} bytes")
        })?;
        let after = self.lost_after.map(|lsn| {
            format!(
                "all behind lsn {lsn}, if there was anything: the region was not stopped cleanly, \
                 and nothing tells"
            )
        });
        list(f, "lost without a trace", after.as_slice(), Clone::clone)?;
        let renamed = "names that are made up, of logs whose own are lost with their states";
        list(f, renamed, &self.names_made_up, Clone::clone)?;
        list(f, "exported", &self.exported, Clone::clone)?;
        list(
            f,
            "numbers that are given out again, to other records",
            &self.given_out_again,
            |Again { log, from, certain }| {
                let log = log.as_deref().unwrap_or("whose name is lost");
                let doubt = if *certain { "" } else { ", if it had one of those not readable" };
                format!("log {log}: from {from} on{doubt}")
            },
        )?;
        list(f, "trimmed, and there again", &self.trimmed_and_back, |back| {
            let Back { log, first, last } = back;
            format!("log {log}: records {first} to {last}, as far as they are not used again")
        })?;
        let values = "damaged values, which stay and answer 500 until they are trimmed";
        list(f, values, &self.damaged_values, ToString::to_string)?;
        match (self.actions.is_empty(), self.applied) {
            (true, _) if self.damaged_values.is_empty() => write!(f, "nothing is damaged"),
            (true, _) => write!(f, "there is nothing to be done"),
            (false, true) => write!(f, "repaired: the region opens"),
            (false, false) => {
                write!(f, "nothing was changed; `impasto repair --apply {}` does it", self.dir)
            }
        }
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    items: &[T],
    line: impl Fn(&T) -> String,
) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}:")?;
    items.iter().try_for_each(|item| writeln!(f, "  {}", line(item)))
}
