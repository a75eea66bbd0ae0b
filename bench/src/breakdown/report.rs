//! What `breakdown` tells: a table with its notes, JSON, a picture.

use std::fmt;

use serde_json::{Value, json};

use super::{Variant, medium_name};
use crate::{
    baselines::Medium,
    machine::Machine,
    plot::{Axis, Layers, Scale, Stack},
    rounds::{Rounds, Sample, Tally},
    stages::Stage,
    statistics::Spread,
};

/// All variants.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) fence_delay: u64,
}

/// A variant in numbers.
#[derive(Debug)]
pub(super) struct Row {
    variant: Variant,
    found: Result<Found, String>,
}

/// Microseconds of a request.
#[derive(Debug)]
struct Found {
    rounds: usize,
    /// By [`PARTS`].
    parts: [Option<Spread>; PARTS.len()],
    /// The round trip that the client saw.
    mean: Option<Spread>,
    p50: Option<Spread>,
    p99: Option<Spread>,
    tally: Tally,
}

/// What a round trip is made of: the network first, then what servers charge.
const PARTS: [&str; 7] = [
    "network",
    Stage::Receive.name(),
    Stage::Parse.name(),
    Stage::Copy.name(),
    Stage::Flush.name(),
    Stage::Fence.name(),
    Stage::Reply.name(),
];

/// Returns a part of the round trips of a window.
fn part(sample: &Sample, part: usize) -> f64 {
    // The first stage is waiting: for the network, which is what nobody else has charged.
    let charged = &sample.stages_us[1..];
    if part == 0 { sample.mean_us - charged.iter().sum::<f64>() } else { charged[part - 1] }
}

impl Row {
    pub(super) fn measured(variant: Variant, rounds: &Rounds, cell: usize) -> Self {
        let found = Found {
            rounds: rounds.count(cell),
            parts: std::array::from_fn(|index| rounds.of(cell, |sample| part(sample, index))),
            mean: rounds.of(cell, |sample| sample.mean_us),
            p50: rounds.of(cell, |sample| sample.p50_us),
            p99: rounds.of(cell, |sample| sample.p99_us),
            tally: rounds.tally(cell),
        };
        Self { variant, found: Ok(found) }
    }

    pub(super) fn skipped(variant: Variant, why: String) -> Self {
        Self { variant, found: Err(why) }
    }
}

impl Found {
    /// Writes the medians, and the quartiles in a line of their own.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, part) in PARTS.iter().zip(self.parts) {
            write!(f, "{:>width$.2}", median(part), width = width(name))?;
        }
        let (sum, mean) = (self.sum(), median(self.mean));
        write!(f, "{sum:>9.2}{mean:>9.2}{:>7.2}", sum - mean)?;
        writeln!(f, "{:>9.2}{:>7.0}", median(self.p50), median(self.p99))?;
        write!(f, "{:<21}", "  quartiles")?;
        for (name, part) in PARTS.iter().zip(self.parts) {
            let text = part.map(|Spread { low, high, .. }| format!("{low:.1}-{high:.1}"));
            write!(f, "{:>width$}", text.unwrap_or_default(), width = width(name))?;
        }
        Ok(())
    }

    fn sum(&self) -> f64 {
        self.parts.iter().map(|part| median(*part)).sum()
    }
}

fn median(spread: Option<Spread>) -> f64 {
    spread.map_or(f64::NAN, |spread| spread.median)
}

impl Report {
    /// Returns true if all that this machine can run was measured.
    pub(super) fn is_whole(&self) -> bool {
        self.rows.iter().all(|row| match &row.found {
            Ok(found) => found.rounds > 0 && found.tally.errors.total() == 0,
            Err(_) => row.variant.unavailable.is_some(),
        })
    }

    /// Returns the pictures by name: of all variants, and of those without a disk, beside which
    /// flushes and fences cannot be seen.
    pub(super) fn pictures(&self, machine: &Machine) -> Vec<(&'static str, Stack)> {
        let is_on_disk = |row: &&Row| row.variant.medium == Medium::Disk;
        let mut pictures =
            vec![("breakdown", self.picture(machine, &self.rows.iter().collect::<Vec<_>>()))];
        let (disk, memory): (Vec<&Row>, Vec<&Row>) = self.rows.iter().partition(is_on_disk);
        if !disk.is_empty() && !memory.is_empty() {
            pictures.push(("breakdown-memory", self.picture(machine, &memory)));
        }
        pictures
    }

    fn picture(&self, machine: &Machine, rows: &[&Row]) -> Stack {
        let bars = rows.iter().map(|row| {
            let (parts, whole) = match &row.found {
                Ok(found) => (found.parts.map(median).into(), median(found.p50)),
                Err(_) => (vec![f64::NAN; PARTS.len()], f64::NAN),
            };
            Layers { name: row.variant.about.clone(), parts, whole }
        });
        let delay = match self.fence_delay {
            0 => String::new(),
            ns => format!(", each fence {} us longer", ns as f64 / 1000.0),
        };
        Stack {
            title: format!("Where the time of a 1 KB POST goes: one connection{delay}"),
            subtitle: machine.short(),
            axis: Axis { label: "us per request (medians of means)".into(), scale: Scale::Linear },
            parts: PARTS.map(str::to_owned).into(),
            whole: "p50 of the round trip".into(),
            bars: bars.collect(),
        }
    }

    /// Returns all of it for machines.
    pub(super) fn to_json(&self, machine: &Machine) -> String {
        let mut json = machine.to_json();
        json["unit"] = "us".into();
        json["fence_delay_ns"] = self.fence_delay.into();
        json["notes"] = NOTES.to_vec().into();
        json["variants"] = self.rows.iter().map(row_json).collect::<Vec<_>>().into();
        format!("{json:#}\n")
    }
}

fn row_json(row: &Row) -> Value {
    let Variant { name, about, medium, .. } = &row.variant;
    let named = json!({ "name": name, "about": about, "medium": medium_name(*medium) });
    let found = match &row.found {
        Err(why) => json!({ "skipped": why }),
        Ok(found) => {
            let parts = PARTS.iter().zip(found.parts);
            let parts = parts.map(|(name, spread)| ((*name).to_owned(), spread_json(spread)));
            let Tally { repeated, waited, failed, errors, .. } = &found.tally;
            json!({
                "rounds": found.rounds,
                "parts": parts.collect::<serde_json::Map<_, _>>(),
                "sum": found.sum(),
                "round_trip": {
                    "mean": spread_json(found.mean),
                    "p50": spread_json(found.p50),
                    "p99": spread_json(found.p99),
                },
                "windows": { "repeated": repeated, "dropped": waited, "failed": failed },
                "errors": errors.to_json(),
            })
        }
    };
    let (Value::Object(mut all), Value::Object(found)) = (named, found) else {
        unreachable!("both were made as objects")
    };
    all.extend(found);
    Value::Object(all)
}

fn spread_json(spread: Option<Spread>) -> Value {
    let Some(Spread { median, low, high, count }) = spread else { return Value::Null };
    json!({ "median": median, "quartiles": [low, high], "rounds": count })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<18}{:>3}", "us, median", "n")?;
        for part in PARTS {
            write!(f, "{:>width$}", part, width = width(part))?;
        }
        writeln!(f, "{:>9}{:>9}{:>7}{:>9}{:>7}", "sum", "mean", "diff", "p50", "p99")?;
        for Row { variant, found } in &self.rows {
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    writeln!(f, "{:<18}  skipped: {why}", variant.name)?;
                    continue;
                }
            };
            write!(f, "{:<18}{:>3}", variant.name, found.rounds)?;
            if found.rounds > 0 {
                found.write(f)?;
            }
            let Tally { waited, failed, errors, .. } = &found.tally;
            if *waited > 0 {
                write!(f, "  {waited} windows dropped: no CPU in time")?;
            }
            if *failed > 0 {
                write!(f, "  {failed} windows failed, errors: {errors}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for note in NOTES {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

fn width(part: &str) -> usize {
    part.len().max(9) + 3
}

/// What the parts are, and what they are not.
const NOTES: [&str; 12] = [
    "network: the client's mean round trip without what the server has charged. So the parts of a",
    "  window make up its mean, whatever is charged wrongly: diff is no check, but what medians of",
    "  many windows are apart. Over the loopback the client's send runs the server's TCP as well,",
    "  and a sleeping server has to be woken. What a server does when its reply has left, while",
    "  the client goes on, is charged, too: network is too short by it, at worst below 0.",
    "receive: recv of servers written by hand. Impasto's kernel receives inside of the enter that",
    "  waits, so that only its slots are here, unless it polls; the rest is in network.",
    "copy: record, checksum and index; the payload only if it is copied. flush, fence: on memory.",
    "sync: from the start of the write of a commit to its completion as the loop sees it.",
    "reply: made and sent; over the loopback the client's TCP receives inside of it. Impasto sends",
    "  by an enter of its own here, saved otherwise. A clock is read about ten times a request,",
    "  which is a part of whatever it ends.",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A bar whose parts do not make up the round trip has lost or doubled time.
    #[test]
    fn parts_add_up_to_the_round_trip() {
        let sample = Sample {
            mean_us: 50.0,
            stages_us: [1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            ..Sample::NOTHING
        };
        let parts: Vec<f64> = (0..PARTS.len()).map(|index| part(&sample, index)).collect();
        assert_eq!(parts, [29.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(parts.iter().sum::<f64>(), sample.mean_us);
    }
}
