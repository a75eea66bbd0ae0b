//! `impasto repair`: to a region that opens, and nothing given up in silence.
//!
//! The safe condition: the region opens, every record that it shows verifies or answers 500, and
//! the log ends before the first damage. A run without `--apply` finds out what that takes, and
//! what it costs; one with it finds out the same, and does it.

mod export;
mod plan;

use std::{path::PathBuf, process::ExitCode};

use impasto::{
    region::{Examined, Frames, layout::MediumKind},
    store::{Rebuild, Rebuilt, Recovery, Repair, States},
};

use super::{
    Failure,
    damage::DAMAGED,
    examine,
    reader::{Reader, pieces},
    tell, tell_json,
};
use plan::{Plan, Report};

/// Options of `impasto repair`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the region; nobody may be serving it
    dir: PathBuf,
    /// Do it; without this, it is only said what would be done, and what is lost
    #[arg(long)]
    apply: bool,
    /// Write the values that are lost and can still be read to files in this directory, before
    /// anything is done
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// What the region was served on: needed if both superblocks are lost, which say it
    #[arg(long, value_parser = medium)]
    medium: Option<MediumKind>,
    /// Say it in JSON
    #[arg(long)]
    json: bool,
}

fn medium(text: &str) -> Result<MediumKind, String> {
    let kinds = [MediumKind::Disk, MediumKind::Shm, MediumKind::Pmem];
    let kind = kinds.into_iter().find(|kind| kind.name() == text);
    kind.ok_or_else(|| "say disk, shm or pmem".into())
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let open = if args.apply { Examined::open_to_write } else { Examined::open };
    let region = examine(&args.dir, open)?;
    let plan = plan::make(&region, args.medium)?;
    let mut report = Report::new(&region, &plan);
    if let Some(dir) = &args.export {
        report.exported = export::write(dir, &region, &plan)?;
    }
    if args.apply && !plan.is_empty() {
        apply(&region, &plan)?;
        drop(region);
        check(args)?;
        report.applied = true;
    }
    if args.json {
        tell_json(&report)?;
    } else {
        tell(report.to_string().trim_end());
    }
    let is_whole = plan.is_empty() && plan.values.is_empty();
    Ok(if args.apply || is_whole { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

/// Writes what was planned: each part is durable before the next (D6, D9).
fn apply(region: &Examined, plan: &Plan) -> Result<(), Failure> {
    if let Some(Repair { states: Some(States { commits, header }), .. }) = &plan.repair {
        for commit in commits {
            region.write_at(plan.frames.bytes(*commit), commit.at)?;
        }
        region.sync()?;
        // From here on the region is repaired: the header is one sector.
        region.write_at(plan.frames.bytes(*header), header.at)?;
        region.sync()?;
    }
    for span in &plan.hardened {
        region.write_at(plan.frames.bytes(*span), span.at)?;
    }
    if !plan.hardened.is_empty() {
        region.sync()?;
    }
    for superblock in &plan.superblocks {
        region.write_superblock(superblock)?;
    }
    Ok(())
}

/// Looks at what has become of it, as a server would.
fn check(args: &Args) -> Result<(), Failure> {
    let region = examine(&args.dir, Examined::open)?;
    let (superblock, _) = region.superblock()?;
    let mut frames = Frames::anonymous(superblock.geometry, 0)?;
    let (recovery, found) =
        Reader::new(&region).recover(Recovery::new(superblock), &mut frames, &mut |_| {});
    found.and_then(|()| recovery.finish(&frames)).map_err(|corruption| {
        format!("the region was written to and does not open all the same: {corruption}")
    })?;
    Ok(())
}

/// Makes a superblock up from the headers of the log's segments.
fn rebuild(
    region: &Examined,
    reader: &Reader<'_>,
    medium: Option<MediumKind>,
) -> Result<Rebuilt, Failure> {
    let path = region.path().display();
    let Some(geometry) = region.geometry() else {
        let bytes = region.file_bytes();
        return Err(format!("cannot repair {path}: no region has {bytes} bytes").into());
    };
    let mut rebuild = Rebuild::new(geometry, medium.unwrap_or(MediumKind::Disk));
    let segments = (0..geometry.segments()).map(impasto::region::SegmentId);
    let heads: Vec<_> = segments.clone().map(plan::head).collect();
    let heads: Vec<_> = pieces(&heads, 0).into_iter().map(|(span, _)| span).collect();
    let mut segment = segments;
    reader.read(&heads, |piece| {
        if let Some(segment) = segment.next() {
            rebuild.look(segment, piece.bytes);
        }
    });
    let rebuilt = rebuild.superblock().ok_or_else(|| {
        format!(
            "cannot repair {path}: both superblocks are lost, and there is no segment of a log \
             that would tell what they said; impasto did not write it, or it was never served"
        )
    })?;
    match medium {
        Some(_) => Ok(rebuilt),
        None => Err(format!(
            "cannot repair {path} yet: both superblocks are lost; say what it was served on, \
             --medium disk, shm or pmem"
        )
        .into()),
    }
}
