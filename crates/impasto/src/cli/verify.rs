//! `impasto verify`: all that a region holds, read and checked. Nothing is changed.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use impasto::{
    region::{
        Examined, Frames,
        layout::{BLOCK_BYTES, Superblock},
    },
    store::{Recovery, Survey},
};
use serde::Serialize;

use super::{
    Failure,
    args::size_text,
    bar,
    check::{Checked, Values},
    damage::{DAMAGED, Damage, superblock},
    examine,
    reader::Reader,
    tell, tell_json,
};

/// Options of `impasto verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory or device of the region; nobody may be serving it
    dir: PathBuf,
    /// Say it in JSON
    #[arg(long)]
    json: bool,
}

/// What was found, as `--json` has it.
#[derive(Debug, Default, Serialize)]
struct Report {
    region: String,
    /// True if there is no damage.
    verifies: bool,
    damage: Vec<Damage>,
    log: LogReport,
    values: u64,
    value_bytes: u64,
    read_bytes: u64,
    seconds: f64,
}

#[derive(Debug, Default, Serialize)]
struct LogReport {
    segments: u64,
    commits: u64,
    entries: u64,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    let region = examine(&args.dir, Examined::open)?;
    let mut report = Report { region: region.path().display().to_string(), ..Report::default() };
    match superblock(&region)? {
        Err(damage) => report.damage.push(damage),
        Ok((superblock, damaged)) => {
            report.damage.extend(damaged);
            if !args.json {
                describe(&region, &superblock);
            }
            read_all(&region, superblock, &mut report)?;
        }
    }
    report.verifies = report.damage.is_empty();
    report.seconds = start.elapsed().as_secs_f64();
    if args.json {
        tell_json(&report)?
    } else {
        say_all(&report)
    }
    Ok(if report.verifies { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn read_all(region: &Examined, superblock: Superblock, report: &mut Report) -> Result<(), Failure> {
    let reader = Reader::new(region);
    let mut frames = Frames::anonymous(superblock.geometry, 0)?;
    let bar = bar("reading the log", superblock.geometry.region_bytes());
    let mut read_bytes = 2 * BLOCK_BYTES;
    let mut progress = |bytes| {
        read_bytes += bytes;
        bar.set_position(read_bytes);
    };
    let (recovery, found) = reader.recover(Recovery::new(superblock), &mut frames, &mut progress);
    let recovered = found.and_then(|()| {
        let survey = recovery.survey(&frames, 0);
        recovery.finish(&frames).map(|recovered| (survey, recovered))
    });
    match recovered {
        Err(corruption) => report.damage.push(Damage::of_log(&corruption)?),
        Ok((survey, recovered)) => {
            report.log = LogReport::from(&survey);
            let values = Values::new(&recovered, &frames);
            drop(frames);
            bar.set_message("reading values");
            bar.set_length(values.bytes_to_read() + bar.position());
            let Checked { values, bytes, mut damaged } = values.check(&reader, &mut progress);
            (report.values, report.value_bytes) = (values, bytes);
            report.damage.append(&mut damaged);
        }
    }
    bar.finish_and_clear();
    report.read_bytes = read_bytes;
    Ok(())
}

impl From<&Survey> for LogReport {
    fn from(survey: &Survey) -> Self {
        Self {
            segments: survey.segments.len() as u64,
            commits: survey.segments.iter().map(|segment| segment.commits).sum(),
            entries: survey.segments.iter().map(|segment| segment.records).sum(),
        }
    }
}

fn describe(region: &Examined, superblock: &Superblock) {
    let stop = if superblock.clean { "it stopped cleanly" } else { "it did not stop cleanly" };
    tell(&format!(
        "{}: {}, epoch {}, last served on {}; {stop}",
        region.path().display(),
        size_text(superblock.geometry.region_bytes()),
        superblock.epoch,
        superblock.medium.name(),
    ));
}

fn say_all(report: &Report) {
    for damage in &report.damage {
        tell(&format!("damaged: {damage}"));
    }
    let LogReport { segments, commits, entries } = report.log;
    let Report { values, value_bytes, read_bytes, seconds, .. } = report;
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    tell(&format!(
        "{values} live record{} of {value_bytes} bytes; log: {segments} segment{}, {commits} \
         commit{}, {entries} entries; {} MiB read in {} ms",
        plural(*values),
        plural(segments),
        plural(commits),
        read_bytes >> 20,
        (seconds * 1e3).round(),
    ));
    match report.damage.len() {
        0 => tell("all of it verifies"),
        1 => tell("1 damage: `impasto repair` tells what can be done"),
        count => tell(&format!("{count} damages: `impasto repair` tells what can be done")),
    }
}
