//! Charts from plain data, as SVG and as PNG: legible at the width of a README, on a dark page as
//! well, by colour-blind people, and without fonts or libraries of the system.
//!
//! ```text
//! Chart, Percentiles, Bars, Stack -> axes fit the data -> shapes and text -> SVG -> PNG
//! ```
//!
//! A value that is missing (NaN), or has no place on its axis (0 on a logarithmic one), leaves a
//! gap: nothing is drawn that was not measured.

use std::{
    io,
    path::{Path, PathBuf},
};

mod axis;
mod bars;
mod canvas;
mod frame;
mod lines;
mod palette;
mod stack;

/// Lines over an axis.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Where the data is from, in small letters: machine, commit, command.
    pub subtitle: String,
    /// From left to right.
    pub x: Axis,
    /// From below to above.
    pub y: Axis,
    /// The lines; those with emphasis are thicker.
    pub series: Vec<Series>,
}

/// Bars side by side, in groups: the categories of `x`.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// Where the data is from, in small letters: machine, commit, command.
    pub subtitle: String,
    /// The groups, [`Scale::Categories`]; a point's `x` is the index of its group.
    pub x: Axis,
    /// From below to above, best [`Scale::Linear`]: the length of a bar is what is compared.
    pub y: Axis,
    /// One bar for each point.
    pub series: Vec<Series>,
}

/// Latency against percentile, as HdrHistogram plots it: each nine takes the same width.
#[derive(Clone, Debug)]
pub struct Percentiles {
    /// What it shows.
    pub title: String,
    /// Where the data is from, in small letters: machine, commit, command.
    pub subtitle: String,
    /// The latency, from below to above.
    pub y: Axis,
    /// A point's `x` is the percentile: 50, 99.9; 100 is the greatest value, `max`.
    pub series: Vec<Series>,
}

/// Bars from left to right, each made of parts.
#[derive(Clone, Debug)]
pub struct Stack {
    /// What it shows.
    pub title: String,
    /// Where the data is from, in small letters: machine, commit, command.
    pub subtitle: String,
    /// What the parts are measured in.
    pub axis: Axis,
    /// The names of the parts, from left to right.
    pub parts: Vec<String>,
    /// What [`Layers::whole`] is, for the legend.
    pub whole: String,
    /// The bars, from above to below.
    pub bars: Vec<Layers>,
}

/// One bar of a [`Stack`].
#[derive(Clone, Debug)]
pub struct Layers {
    /// Its name.
    pub name: String,
    /// The lengths of its parts; NaN: not measured.
    pub parts: Vec<f64>,
    /// The sum as it was measured otherwise, marked on the bar; NaN: it was not.
    pub whole: f64,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it measures, with its unit.
    pub label: String,
    /// How it is divided.
    pub scale: Scale,
}

/// How an axis is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, and from zero.
    Linear,
    /// Each factor takes the same room; on the x axis, few values get a tick each.
    Log,
    /// As [`Log`](Self::Log), said in B, KiB and MiB.
    Bytes,
    /// Percentiles: each nine takes the same room.
    Nines,
    /// These names; the value is the index.
    Categories(Vec<String>),
}

/// One line, or the bars of one colour.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is called.
    pub name: String,
    /// In the order of `x`.
    pub points: Vec<Point>,
    /// True for what the picture is about.
    pub emphasis: bool,
}

/// A value and how far it spreads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// From left to right.
    pub x: f64,
    /// From below to above; NaN: not measured.
    pub y: f64,
    /// A quarter of what was measured is below; NaN: there is no whisker.
    pub low: f64,
    /// A quarter of what was measured is above; NaN: there is no whisker.
    pub high: f64,
}

impl Point {
    /// Returns a value of which no spread is known.
    pub const fn new(x: f64, y: f64) -> Self {
        Self { x, y, low: f64::NAN, high: f64::NAN }
    }

    /// Returns `self` with its quartiles.
    #[must_use]
    pub const fn spread(self, low: f64, high: f64) -> Self {
        Self { low, high, ..self }
    }
}

/// A picture could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {error}", path.display())]
pub struct PlotError {
    /// Where to.
    pub path: PathBuf,
    /// What the system says.
    pub error: io::Error,
}

/// What all pictures can do.
macro_rules! picture {
    ($picture:ty, $draw:path) => {
        impl $picture {
            /// Returns it as SVG.
            pub fn svg(&self) -> String {
                $draw(self)
            }

            /// Writes it to `path` with `.svg` and with `.png` behind, and returns both paths.
            ///
            /// # Errors
            /// If the system does not let it.
            pub fn write(&self, path: &Path) -> Result<[PathBuf; 2], PlotError> {
                canvas::write(&self.svg(), path)
            }
        }
    };
}

picture!(Chart, lines::draw);
picture!(Percentiles, lines::draw_percentiles);
picture!(Bars, bars::draw);
picture!(Stack, stack::draw);

#[cfg(test)]
mod tests;
