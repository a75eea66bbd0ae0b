//! All of it: probes, path, and what follows.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    BudgetError, Frame, Machine, Pinned, Rate,
    path::{self, Path, PathOptions, State},
    probes::{Effort, Group, Row},
    table::{ASSUMPTIONS, Line, RATES, memory_ends},
};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// A rate besides those of the articles.
    pub rate: Rate,
    /// A frame besides the smallest and the full one.
    pub frame: Frame,
    /// The core that is measured; the last one if none is named.
    pub core: Option<usize>,
    /// How thoroughly.
    pub effort: Effort,
    /// Bytes of a working set, instead of four times the last-level cache.
    pub working_set_bytes: Option<u64>,
    /// Where a file can be made.
    pub dir: PathBuf,
}

/// The time budget of this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Budget {
    /// The machine.
    pub machine: Machine,
    /// True if this was built without optimisation: then the figures are worthless.
    pub debug_build: bool,
    /// What the articles list, and more.
    pub probes: Vec<Probes>,
    /// Our path, for each frame and state.
    pub paths: Vec<Path>,
    /// Paths that could not be measured.
    pub missing: Vec<Missing>,
    /// Lines full of such frames; the path is that of cold packets.
    pub lines: Vec<Line>,
    /// For each frame, the rate at which memory ends a line; empty if that was not measured.
    pub memory_ends: Vec<MemoryEnd>,
    /// What is taken for granted.
    pub assumptions: [&'static str; ASSUMPTIONS.len()],
}

/// A group of probes.
#[derive(Clone, Debug, Serialize)]
pub struct Probes {
    /// Its name.
    pub name: &'static str,
    /// One for each probe.
    pub rows: Vec<Row>,
}

/// A path that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Missing {
    /// Of which frame.
    pub frame: Frame,
    /// Where packets would have been at first.
    pub state: State,
    /// Why it has no figure.
    pub why: String,
}

/// The rate at which memory ends a line.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryEnd {
    /// The line's frames.
    pub frame: Frame,
    /// Its rate.
    pub rate: Rate,
}

impl Options {
    /// Returns the frames whose path is measured.
    fn frames(&self) -> Vec<Frame> {
        let mut frames = vec![Frame::MIN, Frame::FULL, self.frame];
        frames.sort_unstable();
        frames.dedup();
        frames
    }

    /// Returns the rates of the lines.
    fn rates(&self) -> Vec<Rate> {
        let mut rates: Vec<Rate> = RATES.into_iter().chain([self.rate]).collect();
        rates.sort_unstable_by(|one, other| one.as_gigabits().total_cmp(&other.as_gigabits()));
        rates.dedup();
        rates
    }

    /// Returns in how many steps it is measured.
    pub fn steps(&self) -> usize {
        Group::BUDGET.len() + self.frames().len() * State::ALL.len()
    }
}

impl Budget {
    /// Measures all of it, on this thread; `progress` is told what comes next.
    ///
    /// # Errors
    /// What keeps everything from being measured. What keeps a probe from it stands in its row, and
    /// what keeps a path from it in [`missing`](Self::missing).
    pub fn measure(options: &Options, mut progress: impl FnMut(&str)) -> Result<Self, BudgetError> {
        let mut machine = Machine::look(options.core)?;
        if let Some(bytes) = options.working_set_bytes {
            machine.working_set_bytes = bytes;
        }
        let _pinned = Pinned::to(machine.core)?;
        let mut probes = Vec::new();
        for group in Group::BUDGET {
            progress(group.name());
            let rows = group.measure(&machine, options.effort, &options.dir);
            probes.push(Probes { name: group.name(), rows });
        }
        let (mut paths, mut missing) = (Vec::new(), Vec::new());
        for frame in options.frames() {
            for state in State::ALL {
                progress(&format!("the path of {} B, {}", frame.wire_bytes(), state.name()));
                let bytes = machine.working_set_bytes;
                let options = PathOptions { frame, state, parts: false, bytes };
                match path::measure(&machine, options) {
                    Ok(path) => paths.push(path),
                    Err(error) => missing.push(Missing { frame, state, why: error.to_string() }),
                }
            }
        }
        let bus = bus(&probes);
        let cold = paths.iter().filter(|path| path.state == State::Cold);
        let rates = options.rates();
        let of = |path| rates.iter().map(move |rate| Line::new(*rate, path, bus));
        let lines = cold.clone().flat_map(of).collect();
        let ends = bus.into_iter().flat_map(|bus| {
            cold.clone()
                .map(move |path| MemoryEnd { frame: path.frame, rate: memory_ends(path, bus) })
        });
        let memory_ends = ends.collect();
        let debug_build = cfg!(debug_assertions);
        let assumptions = ASSUMPTIONS;
        Ok(Self { machine, debug_build, probes, paths, missing, lines, memory_ends, assumptions })
    }
}

/// Returns the bytes that the memory bus moves in a second, as far as was seen, by one thread or by
/// all: what is copied is read and written.
fn bus(probes: &[Probes]) -> Option<f64> {
    let rows = probes.iter().flat_map(|probes| &probes.rows);
    let moved = rows.filter_map(|row| {
        let crossings = match row.key.as_str() {
            "read" | "read-all" => 1.0,
            "copy" | "copy-large" | "copy-all" | "copy-large-all" => 2.0,
            _ => return None,
        };
        Some(crossings * row.figure?.median * 1e9)
    });
    moved.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Figure, probes::Unit};

    /// What one thread has moved, the bus can move, also where all of them were in each other's
    /// way.
    #[test]
    fn the_bus_moves_the_most_that_was_seen() {
        let row = |(key, median): (&str, Option<f64>)| Row {
            key: key.to_owned(),
            what: String::new(),
            unit: Unit::Gigabytes,
            figure: median.map(|median| Figure { median, low: 0.0, high: 0.0, min: 0.0 }),
            missing: None,
            article: None,
        };
        let bus = |rows: &[(&str, Option<f64>)]| {
            let rows = rows.iter().copied().map(row).collect();
            bus(&[Probes { name: "", rows }])
        };
        assert_eq!(bus(&[("read", Some(14.0)), ("copy", Some(9.0))]), Some(18e9));
        assert_eq!(bus(&[("copy-all", Some(7.0)), ("copy", Some(9.0))]), Some(18e9));
        assert_eq!(bus(&[("read-all", Some(30.0)), ("copy-large-all", None)]), Some(30e9));
        assert_eq!(bus(&[("file-read-buffered", Some(40.0)), ("read", None)]), None);
    }
}
