//! What is told: each line's cells and figures, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::{
    machine::Machine,
    rounds::{Cell, Rounds, Tally},
    statistics::Spread,
};

/// One line of what has to be reached, measured.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) cells: Vec<CellReport>,
    pub(super) figures: Vec<Figure>,
    /// Why it was not measured.
    pub(super) skipped: Option<String>,
}

/// A cell in numbers.
#[derive(Debug)]
pub(super) struct CellReport {
    name: String,
    rounds: usize,
    /// By name, with the number of digits behind the point.
    columns: [(&'static str, usize, Option<Spread>); 8],
    tally: Tally,
}

impl CellReport {
    pub(super) fn of(cells: &[Cell<'_>], rounds: &Rounds) -> Vec<Self> {
        let report = |(index, cell): (usize, &Cell<'_>)| Self {
            name: cell.name.clone(),
            rounds: rounds.count(index),
            columns: [
                ("requests/s", 0, rounds.of(index, |s| s.requests_rate)),
                ("MB/s", 1, rounds.of(index, |s| s.bytes_rate / 1e6)),
                ("p50 us", 1, rounds.of(index, |s| s.p50_us)),
                ("p99 us", 1, rounds.of(index, |s| s.p99_us)),
                ("CPU us/req", 2, rounds.of(index, |s| s.server_us)),
                ("server %", 0, rounds.of(index, |s| 100.0 * s.server_busy)),
                ("client %", 0, rounds.of(index, |s| 100.0 * s.client_busy)),
                ("wait %", 1, rounds.of(index, |s| 100.0 * s.wait)),
            ],
            tally: rounds.tally(index),
        };
        cells.iter().enumerate().map(report).collect()
    }
}

/// A number that was wanted, or that helps to understand one.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) found: Option<Spread>,
    pub(super) aim: Aim,
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aim {
    AtLeast(f64),
    AtMost(f64),
    /// It is told, and no more.
    None,
}

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Reached,
    Missed,
    /// No round was clean.
    Unknown,
    NoAim,
}

impl Figure {
    pub(super) fn verdict(&self) -> Verdict {
        let reached = |median: f64| match self.aim {
            Aim::AtLeast(least) => median >= least,
            Aim::AtMost(most) => median <= most,
            Aim::None => true,
        };
        match self.found {
            _ if matches!(self.aim, Aim::None) => Verdict::NoAim,
            None => Verdict::Unknown,
            Some(spread) if reached(spread.median) => Verdict::Reached,
            Some(_) => Verdict::Missed,
        }
    }

    fn verdict_text(&self) -> &'static str {
        match self.verdict() {
            Verdict::Reached => "reached",
            Verdict::Missed => "MISSED",
            Verdict::Unknown => "UNKNOWN: no clean round",
            Verdict::NoAim => "",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found.map_or_else(
            || "-".to_owned(),
            |Spread { median, low, high, count }| {
                format!("{median:.3} [{low:.3}-{high:.3}], n {count}")
            },
        );
        let aim = self.aim.to_string();
        write!(f, "  {:<48} {found:<28} {aim:<8} {}", self.name, self.verdict_text())
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::None => Ok(()),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        if let Some(why) = &self.skipped {
            return write!(f, "  skipped: {why}");
        }
        if let Some(first) = self.cells.first() {
            write!(f, "  {:<22}{:>4}", "median of", "n")?;
            for (name, ..) in first.columns {
                write!(f, "{name:>11}")?;
            }
            writeln!(f, "{:>9}{:>8}", "dropped", "failed")?;
        }
        for cell in &self.cells {
            write!(f, "  {:<22}{:>4}", cell.name, cell.rounds)?;
            for (_, digits, spread) in cell.columns {
                match spread {
                    Some(spread) => write!(f, "{:>11.digits$}", spread.median)?,
                    None => write!(f, "{:>11}", "-")?,
                }
            }
            let Tally { waited, failed, given_up, errors, .. } = &cell.tally;
            writeln!(f, "{waited:>9}{:>8}", failed + given_up)?;
            if errors.total() > 0 {
                writeln!(f, "  {:<22}    errors: {errors}", "")?;
            }
        }
        for figure in &self.figures {
            writeln!(f, "{}", figure.to_string().trim_end())?;
        }
        Ok(())
    }
}

/// Returns all of it for machines.
pub(super) fn to_json(machine: &Machine, lines: &[Line]) -> String {
    let lines: Vec<Value> = lines.iter().map(line_json).collect();
    let mut json = machine.to_json();
    json["lines"] = lines.into();
    format!("{json:#}\n")
}

fn line_json(line: &Line) -> Value {
    let cells = line.cells.iter().map(|cell| {
        let columns = cell.columns.iter();
        let numbers = columns.map(|(name, _, spread)| ((*name).to_owned(), Spread::json(*spread)));
        let Tally { repeated, waited, failed, given_up, errors } = &cell.tally;
        json!({
            "name": cell.name,
            "rounds": cell.rounds,
            "numbers": numbers.collect::<serde_json::Map<_, _>>(),
            "windows": {
                "repeated": repeated,
                "dropped": waited,
                "failed": failed,
                "given_up": given_up,
            },
            "errors": errors.to_json(),
        })
    });
    let figures = line.figures.iter().map(|figure| {
        json!({
            "name": figure.name,
            "ratio": Spread::json(figure.found),
            "aim": figure.aim.to_string(),
            "verdict": figure.verdict_text(),
        })
    });
    json!({
        "name": line.name,
        "skipped": line.skipped,
        "cells": cells.collect::<Vec<_>>(),
        "figures": figures.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(aim: Aim, median: Option<f64>) -> Figure {
        let found = median.and_then(|median| Spread::of([median]));
        Figure { name: "a".into(), found, aim }
    }

    /// A figure that was not measured is not reached.
    #[test]
    fn a_verdict_is_what_the_aim_says() {
        assert_eq!(figure(Aim::AtLeast(0.95), Some(0.95)).verdict(), Verdict::Reached);
        assert_eq!(figure(Aim::AtLeast(0.95), Some(0.94)).verdict(), Verdict::Missed);
        assert_eq!(figure(Aim::AtMost(1.2), Some(1.3)).verdict(), Verdict::Missed);
        assert_eq!(figure(Aim::AtMost(1.2), Some(f64::NAN)).verdict(), Verdict::Missed);
        assert_eq!(figure(Aim::AtMost(1.2), None).verdict(), Verdict::Unknown);
        assert_eq!(figure(Aim::None, None).verdict(), Verdict::NoAim);
    }

    #[test]
    fn the_machine_and_the_command_are_in_the_output() {
        let machine = Machine::look(7);
        let line = Line {
            name: "a line",
            cells: Vec::new(),
            figures: vec![figure(Aim::AtLeast(0.5), Some(0.25))],
            skipped: None,
        };
        assert!(line.to_string().contains("0.250 [0.250-0.250], n 1"), "{line}");
        assert!(line.to_string().contains("MISSED"), "{line}");
        let json: Value = serde_json::from_str(&to_json(&machine, &[line])).unwrap();
        for name in ["machine", "kernel", "commit", "command", "seed"] {
            assert!(!json[name].is_null(), "{name}");
        }
        assert_eq!(json["lines"][0]["figures"][0]["ratio"]["median"], 0.25);
    }
}
