//! `impasto inspect`: what stands in a region at rest, and where.

mod found;
mod map;

use std::{
    fmt::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use impasto::{
    region::{Examined, Frames, layout::BUF_BYTES},
    store::Recovery,
};

use super::{
    Failure, bar,
    damage::{DAMAGED, Damage, superblock},
    examine,
    reader::Reader,
    style::{Style, bytes_text},
    tell, tell_json,
};
use found::{Found, Report};
use map::Map;

/// Options of `impasto inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the region; nobody may be serving it
    dir: PathBuf,
    /// Say it in JSON: all segments and all logs, and of each buffer its state
    #[arg(long)]
    json: bool,
    /// How many of the newest records are shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    records: usize,
}

/// Segments of the log that are shown, the newest.
const SEGMENTS_SHOWN: usize = 8;
/// Logs that are shown, the largest.
const LOGS_SHOWN: usize = 10;

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    let region = examine(&args.dir, Examined::open)?;
    let (superblock, damaged) = match superblock(&region)? {
        Ok(found) => found,
        Err(damage) => {
            let report = Report::without_superblock(&region, damage);
            return finish(args, &report);
        }
    };
    let mut report = Report::new(&region, &superblock);
    report.damage.extend(damaged);
    let reader = Reader::new(&region);
    let mut frames = Frames::anonymous(superblock.geometry, 0)?;
    let bar = bar("reading the log", superblock.geometry.region_bytes());
    let mut progress = |bytes| {
        report.read_bytes += bytes;
        bar.inc(bytes);
    };
    let (mut recovery, found) =
        reader.recover(Recovery::new(superblock), &mut frames, &mut progress);
    bar.finish_and_clear();
    let mut lost = None;
    let mut whole = true;
    if let Err(corruption) = found {
        report.damage.push(Damage::of_log(&corruption)?);
        // What stands before the damage can be shown all the same.
        lost = recovery.cut(&frames).ok();
        whole = lost.is_some();
    }
    if whole {
        let survey = recovery.survey(&frames, args.records);
        match recovery.finish(&frames) {
            Ok(recovered) => report.found = Some(Found::new(&survey, &recovered, lost.as_ref())),
            Err(corruption) => report.damage.push(Damage::of_log(&corruption)?),
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    finish(args, &report)
}

fn finish(args: &Args, report: &Report) -> Result<ExitCode, Failure> {
    if args.json {
        tell_json(report)?;
    } else {
        let style = Style::of_stdout();
        let mut text = String::new();
        write(&mut text, report, style)?;
        tell(text.trim_end());
    }
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn write(text: &mut String, report: &Report, style: Style) -> fmt::Result {
    write_region(text, report, style)?;
    if let Some(found) = &report.found {
        write_buffers(text, found, style)?;
        write_segments(text, found, style)?;
        write_logs(text, found, style)?;
        write_records(text, found, style)?;
        Map::new(found.states(), style).write(text)?;
    }
    for damage in &report.damage {
        writeln!(text, "\n{}: {damage}", style.bad("damaged"))?;
    }
    if !report.damage.is_empty() {
        writeln!(text, "`impasto repair {}` tells what can be done", report.dir)?;
    }
    Ok(())
}

fn write_region(text: &mut String, report: &Report, style: Style) -> fmt::Result {
    writeln!(text, "{}   {}", style.title("region"), report.region)?;
    let Some(about) = &report.about else { return Ok(()) };
    writeln!(text, "  uuid        {}", about.uuid)?;
    let bufs = about.segments * 4;
    writeln!(
        text,
        "  size        {}: {} segments, {bufs} buffers of {} KiB",
        super::args::size_text(about.bytes),
        about.segments,
        BUF_BYTES >> 10
    )?;
    writeln!(text, "  medium      {}", about.medium)?;
    let never = if about.epoch == 0 { ": never served" } else { "" };
    writeln!(text, "  epoch       {}{never}, from lsn {} on", about.epoch, about.start_lsn)?;
    writeln!(text, "  stopped     {}", if about.clean { "cleanly" } else { "not cleanly" })?;
    for copy in &report.superblocks {
        writeln!(text, "  superblock  {}: {copy}", copy.copy)?;
    }
    if about.ro_compat != 0 {
        let bits = about.ro_compat;
        writeln!(
            text,
            "  newer       format bits {bits:#x} for writers: not to be served by this"
        )?;
    }
    Ok(())
}

fn write_buffers(text: &mut String, found: &Found, style: Style) -> fmt::Result {
    let bufs = &found.buffers;
    writeln!(text, "\n{}  {}", style.title("buffers"), bufs.total)?;
    for (name, count, note) in [
        ("free", bufs.free, ""),
        ("landing", bufs.landing, "only while the region is served"),
        ("log", bufs.log, ""),
        ("kept", bufs.kept, "values above what stands in the log"),
        ("sparse", bufs.sparse, "kept, with less than a quarter live"),
        ("damaged", bufs.damaged, ""),
    ] {
        let bytes = bytes_text(count * u64::from(BUF_BYTES));
        writeln!(text, "{}", format!("  {name:<8} {count:>9}  {bytes:>11}  {note}").trim_end())?;
    }
    Ok(())
}

fn write_segments(text: &mut String, found: &Found, style: Style) -> fmt::Result {
    let log = &found.log;
    writeln!(
        text,
        "\n{}      {} segment{}, {} commits, {} entries; next lsn {}",
        style.title("log"),
        log.segments.len(),
        if log.segments.len() == 1 { "" } else { "s" },
        log.commits(),
        log.entries(),
        log.next_lsn
    )?;
    if log.segments.is_empty() {
        return Ok(());
    }
    writeln!(text, "     chain  segment  first lsn  commits  entries        bytes")?;
    let hidden = log.segments.len().saturating_sub(SEGMENTS_SHOWN);
    for segment in &log.segments[hidden..] {
        let bytes = bytes_text(segment.bytes);
        let (chain, place, first) = (segment.chain, segment.segment, segment.first_lsn);
        let (commits, entries) = (segment.commits, segment.entries);
        writeln!(
            text,
            "  {chain:>8} {place:>8} {first:>10} {commits:>8} {entries:>8}  {bytes:>11}"
        )?;
    }
    if hidden > 0 {
        writeln!(text, "  and {hidden} older ones")?;
    }
    Ok(())
}

fn write_logs(text: &mut String, found: &Found, style: Style) -> fmt::Result {
    let logs = &found.logs;
    writeln!(text, "\n{}     {}", style.title("logs"), logs.len())?;
    if logs.is_empty() {
        return Ok(());
    }
    let shown = &logs[..logs.len().min(LOGS_SHOWN)];
    let width = shown.iter().map(|log| log.name.len()).max().unwrap_or(0).clamp(4, 40);
    writeln!(text, "  {:<width$}      first       next    records        bytes", "name")?;
    for log in shown {
        let (first, next, records, bytes) = (log.first, log.next, log.records, log.bytes);
        let (name, bytes) = (&log.name, bytes_text(bytes));
        writeln!(text, "  {name:<width$} {first:>10} {next:>10} {records:>10}  {bytes:>11}")?;
    }
    if logs.len() > LOGS_SHOWN {
        writeln!(text, "  and {} smaller ones", logs.len() - LOGS_SHOWN)?;
    }
    Ok(())
}

fn write_records(text: &mut String, found: &Found, style: Style) -> fmt::Result {
    if found.recent.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n{}  the newest first", style.title("records"))?;
    let longest = found.recent.iter().map(|record| record.log.len()).max().unwrap_or(0);
    let width = longest.clamp(3, 40);
    for record in &found.recent {
        writeln!(text, "  {:>10}  {:<width$}  {}", record.lsn, record.log, record.what())?;
    }
    Ok(())
}
