//! `impasto budget`: what a packet may take, and what it takes here.

use std::{
    fmt::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use impasto_budget::{Budget, Figure, Frame, Missing, Options, Rate, path::State, probes::Effort};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    Failure,
    args::bytes,
    say,
    style::{Style, bytes_text},
    tell, tell_json,
};

/// Options of `impasto budget`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Rate of a line, like 100G or 1T, beside those of the articles
    #[arg(long, value_name = "RATE", default_value = "100G")]
    rate: Rate,
    /// Bytes of a frame on the wire, preamble and gap included
    #[arg(long, value_name = "BYTES", default_value = "1538")]
    frame: Frame,
    /// Say it in JSON
    #[arg(long)]
    json: bool,
    /// The core to measure, one that nobody else uses [default: the last one]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Fewer repetitions, for a first look
    #[arg(long)]
    quick: bool,
    /// Memory that is gone through [default: four times the last-level cache]
    #[arg(long, value_name = "SIZE", value_parser = working_set)]
    working_set: Option<u64>,
    /// Directory for a file that is read and written, and gone afterwards
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

fn working_set(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    let sizes = 1 << 20..=64 << 30;
    if sizes.contains(&bytes) { Ok(bytes) } else { Err("from 1MiB to 64GiB".into()) }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if cfg!(debug_assertions) {
        say("impasto: this build is not optimised: its figures are worthless (--release)");
    }
    let options = Options {
        rate: args.rate,
        frame: args.frame,
        core: args.core,
        effort: if args.quick { Effort::QUICK } else { Effort::FULL },
        working_set_bytes: args.working_set,
        dir: args.dir.clone(),
    };
    let bar = ProgressBar::new(options.steps() as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len}, {msg}");
    bar.set_style(style.expect("the template is well-formed"));
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut begun = false;
    let measured = Budget::measure(&options, |step| {
        bar.inc(u64::from(std::mem::replace(&mut begun, true)));
        bar.set_message(step.to_owned());
    });
    bar.finish_and_clear();
    let budget = measured?;
    if args.json {
        let command = std::env::args().collect::<Vec<_>>().join(" ");
        tell_json(&Told { version: VERSION, command, budget })?;
    } else {
        let mut text = String::new();
        write(&mut text, &budget, Style::of_stdout())?;
        tell(text.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// The budget, and what has measured it.
#[derive(Serialize)]
struct Told {
    version: &'static str,
    command: String,
    #[serde(flatten)]
    budget: Budget,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn write(text: &mut String, budget: &Budget, style: Style) -> fmt::Result {
    write_machine(text, budget, style)?;
    write_probes(text, budget, style)?;
    write_paths(text, budget, style)?;
    write_lines(text, budget, style)?;
    writeln!(text, "\n{}", style.title("assumptions"))?;
    budget.assumptions.into_iter().try_for_each(|assumption| write_wrapped(text, assumption))
}

/// Writes a paragraph in lines of at most [`COLUMNS`].
fn write_wrapped(text: &mut String, paragraph: &str) -> fmt::Result {
    let mut column = 0;
    for word in paragraph.split(' ') {
        if column == 0 || column + 1 + word.len() > COLUMNS {
            let (end, indent) = if column == 0 { ("", "  ") } else { ("\n", "    ") };
            write!(text, "{end}{indent}{word}")?;
            column = indent.len() + word.len();
        } else {
            write!(text, " {word}")?;
            column += 1 + word.len();
        }
    }
    writeln!(text)
}

/// The widest line of the tables.
const COLUMNS: usize = 100;

fn write_machine(text: &mut String, budget: &Budget, style: Style) -> fmt::Result {
    let machine = &budget.machine;
    let cache = match machine.cache_bytes {
        Some(bytes) => format!("last-level cache {}", bytes_text(bytes)),
        None => "/sys does not tell the last-level cache: taken for 32 MiB".into(),
    };
    writeln!(text, "{}  {}, kernel {}", style.title("machine"), machine.cpu, machine.kernel)?;
    let (core, cores) = (machine.core, machine.cores.len());
    writeln!(text, "  core {core} of {cores}; {cache}; impasto {VERSION}")?;
    let working_set = bytes_text(machine.working_set_bytes);
    writeln!(text, "  working sets of {working_set}; medians, and quartiles in brackets")
}

fn write_probes(text: &mut String, budget: &Budget, style: Style) -> fmt::Result {
    for group in &budget.probes {
        let name = style.title(&format!("{:<42}", group.name));
        writeln!(text, "\n{name} {:>9} {:24}the articles, 2015", "here", "")?;
        for row in &group.rows {
            let unit = row.unit.name();
            let beside = row.article.unwrap_or("");
            let line = match (&row.figure, &row.missing) {
                (Some(figure), _) => format!("{} {unit:<4}  {beside}", cells(*figure)),
                (None, why) => format!("{:>9} {}", "-", why.as_deref().unwrap_or("")),
            };
            writeln!(text, "{}", format!("  {:<40} {line}", row.what).trim_end())?;
        }
    }
    Ok(())
}

/// Returns a median and its quartiles.
fn cells(figure: Figure) -> String {
    let Figure { median, low, high, .. } = figure;
    let digits = if median < 100.0 { 2 } else { 0 };
    let quartiles = format!("[{low:.digits$} - {high:.digits$}]");
    format!("{median:>9.digits$} {quartiles:<17}")
}

fn write_paths(text: &mut String, budget: &Budget, style: Style) -> fmt::Result {
    let name = style.title(&format!("{:<42}", "a packet's path, one core"));
    writeln!(text, "\n{name} {:>9} {:<17} {:>9} {:>9}", "ns", "", "Mpps", "Gb/s")?;
    for path in &budget.paths {
        let kept = if path.inline { "copied to its record" } else { "kept where it landed" };
        let what = format!("{} B, {}, {kept}", path.frame.wire_bytes(), path.state.name());
        let (mpps, rate) = (1e3 / path.path.median, path.rate.as_gigabits());
        writeln!(text, "  {what:<40} {} {mpps:>9.2} {rate:>9.1}", cells(path.path))?;
    }
    for Missing { frame, state, why } in &budget.missing {
        let what = format!("{} B, {}", frame.wire_bytes(), state.name());
        writeln!(text, "  {what:<40} {:>9} {why}", "-")?;
    }
    Ok(())
}

fn write_lines(text: &mut String, budget: &Budget, style: Style) -> fmt::Result {
    let paths = budget.paths.iter().filter(|path| path.state == State::Cold);
    for path in paths {
        let frame = path.frame.wire_bytes();
        let name = style.title(&format!("{:<12}", format!("{frame} B")));
        writeln!(
            text,
            "\n{name} {:>10} {:>10} {:>10} {:>7} {:>14} {:>6}",
            "ns/packet", "Mpps", "our path", "cores", "memory, GB/s", "share"
        )?;
        for line in budget.lines.iter().filter(|line| line.frame == path.frame) {
            let share =
                line.memory_share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
            writeln!(
                text,
                "  {:<10} {:>10.2} {:>10.2} {:>10.1} {:>7.2} {:>14.1} {share:>6}",
                line.rate.to_string(),
                line.packet_ns,
                line.packets_per_second / 1e6,
                line.path_ns,
                line.cores,
                line.memory_bytes_per_second / 1e9,
            )?;
        }
        if let Some(end) = budget.memory_ends.iter().find(|end| end.frame == path.frame) {
            writeln!(text, "  memory ends it at {:.0} Gb/s", end.rate.as_gigabits())?;
        }
    }
    Ok(())
}
