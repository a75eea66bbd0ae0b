//! `impasto-bench micro`: parts by themselves. Whether together they make a fast server is another
//! question; where one is slow, this says which.

mod pool;

use std::{fmt::Write, process::ExitCode, time::Duration};

use clap::ValueEnum;
use impasto_budget::{
    Figure, Frame, Machine, Pinned,
    path::{self, Path, PathOptions, State},
    probes::{Effort, Group, Row},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::{
    cli::{Failure, tell},
    machine,
};

/// Options of `impasto-bench micro`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure only this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<Section>,
    /// Say it in JSON
    #[arg(long)]
    json: bool,
    /// Fewer repetitions
    #[arg(long)]
    quick: bool,
    /// The core to measure [default: the last one]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// loop port, slot, keep, flush, record, commit: whole and in parts
    Path,
    /// buffers taken on one core and given back on another
    Pool,
    /// cache misses, locks, fences
    Processor,
    /// flushes of 64 B to 4 KiB by each instruction, and streaming copies: one fence each, and one
    /// for 64
    Flushes,
    /// system calls, alone and batched; allocations
    Calls,
    /// reads and copies, by one thread and by all
    Copies,
    /// checksums, parsing, append and commit
    Code,
    /// a file, through the page cache and past it, in the current directory
    Files,
}

/// What was measured: for people, and for machines.
struct Told {
    text: String,
    json: Value,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let machine = Machine::look(args.core)?;
    // Before this thread has but one core.
    let taken = machine::Machine::look(0);
    let _pinned = Pinned::to(machine.core)?;
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let chosen = |section: &Section| args.only.is_empty() || args.only.contains(section);
    let sections: Vec<_> = Section::value_variants().iter().copied().filter(chosen).collect();
    let bar = ProgressBar::new(sections.len() as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len}, {msg}");
    bar.set_style(style.expect("the template is well-formed"));
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut report = taken.to_json();
    report["machine"] = serde_json::to_value(&machine)?;
    report["seed"].take();
    report["debug_build"] = cfg!(debug_assertions).into();
    let mut text = String::new();
    if cfg!(debug_assertions) {
        writeln!(text, "this build is not optimised: its figures are worthless (--release)\n")?;
    }
    let cache = machine.cache_bytes.map_or_else(
        || "a last-level cache that /sys does not tell, taken for 32 MiB".to_owned(),
        |bytes| format!("a last-level cache of {} MiB", bytes >> 20),
    );
    writeln!(text, "{}\ncore {}, {cache}", taken.short(), machine.core)?;
    for section in sections {
        bar.set_message(section.name());
        let told = section.measure(&machine, effort).unwrap_or_else(|why| Told {
            text: format!("{}: {why}\n", section.name()),
            json: json!({ "missing": why.to_string() }),
        });
        report[section.name()] = told.json;
        text.push('\n');
        text.push_str(&told.text);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        tell(&serde_json::to_string_pretty(&report)?);
    } else {
        tell(text.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

impl Section {
    const fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Pool => "pool",
            Self::Processor => "processor",
            Self::Flushes => "flushes",
            Self::Calls => "calls",
            Self::Copies => "copies",
            Self::Code => "code",
            Self::Files => "files",
        }
    }

    fn measure(self, machine: &Machine, effort: Effort) -> Result<Told, Failure> {
        let group = match self {
            Self::Path => return paths(machine),
            Self::Pool => return pool::measure(machine, effort),
            Self::Processor => Group::Processor,
            Self::Flushes => Group::Flushes,
            Self::Calls => Group::Kernel,
            Self::Copies => Group::Bandwidth,
            Self::Code => Group::Compute,
            Self::Files => Group::Files,
        };
        let rows = group.measure(machine, effort, ".".as_ref());
        let mut text = format!("{}\n", group.name());
        rows.iter().try_for_each(|row| write_row(&mut text, row))?;
        Ok(Told { text, json: serde_json::to_value(rows)? })
    }
}

fn write_row(text: &mut String, row: &Row) -> std::fmt::Result {
    let what = &row.what;
    match (&row.figure, &row.missing) {
        (Some(figure), _) => {
            writeln!(text, "  {what:<42} {} {}", cells(*figure), row.unit.name())
        }
        (None, why) => writeln!(text, "  {what:<42} - {}", why.as_deref().unwrap_or("")),
    }
}

/// Returns a median, the quartiles and the least.
fn cells(figure: Figure) -> String {
    let Figure { median, low, high, min } = figure;
    format!("{median:>9.2}  [{low:.2} - {high:.2}], least {min:.2}")
}

/// The frames that the articles speak of, wherever a packet is at first.
fn paths(machine: &Machine) -> Result<Told, Failure> {
    let mut text = String::new();
    let mut all = Vec::new();
    for (frame, aim) in [(Frame::MIN, "67.2 ns, 10 Gb/s"), (Frame::FULL, "120 ns, 100 Gb/s")] {
        for state in State::ALL {
            let bytes = machine.working_set_bytes;
            let options = PathOptions { frame, state, parts: true, bytes };
            let path = path::measure(machine, options)?;
            write_path(&mut text, &path, aim)?;
            all.push(json!({ "sum": path.sum(), "ratio": path.ratio(), "path": path }));
        }
    }
    Ok(Told { text, json: all.into() })
}

fn write_path(text: &mut String, path: &Path, aim: &str) -> std::fmt::Result {
    let kept = if path.inline { "copied to its record" } else { "kept where it landed" };
    let (bytes, state) = (path.frame.memory_bytes(), path.state.name());
    writeln!(text, "a packet of {bytes} B, {state}, {kept}: ns")?;
    for part in &path.parts {
        writeln!(text, "  {:<42} {}", part.part.name(), cells(part.figure))?;
    }
    writeln!(text, "  {:<42} {:>9.2}", "sum of the parts", path.sum())?;
    writeln!(text, "  {:<42} {}", "the path", cells(path.path))?;
    let (ratio, rate) = (path.ratio(), path.rate.as_gigabits());
    let (mpps, wire) = (1e3 / path.path.median, path.frame.wire_bytes());
    writeln!(
        text,
        "  path / sum {ratio:.2}, aim at most 1.25; {:.2} ns, aim {aim}",
        path.path.median
    )?;
    writeln!(
        text,
        "  one core carries {mpps:.2} million frames/s: {rate:.1} Gb/s of {wire} B on the wire\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sections of one name would overwrite each other in the JSON.
    #[test]
    fn sections_have_the_names_that_only_takes() {
        for section in Section::value_variants() {
            let value = section.to_possible_value().unwrap();
            assert_eq!(value.get_name(), section.name());
        }
    }
}
