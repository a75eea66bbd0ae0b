//! What stands around the data: title, subtitle, axes, legend.

use super::{
    Axis, Series,
    axis::Ruler,
    canvas::{Canvas, Letters, Place, Side},
    palette::{FAINT, GRID, INK},
};

/// The size of a picture in pixels: twice what a README shows.
pub(super) const WIDTH: i32 = 1600;
pub(super) const HEIGHT: i32 = 1000;
/// Around everything.
pub(super) const MARGIN: i32 = 40;
/// Letters of labels, ticks and legends.
pub(super) const TEXT: i32 = 28;
const TITLE: i32 = 40;
const SMALL: i32 = 20;
/// The most that names beside the data take.
pub(super) const NAMES_WIDTH_MAX: i32 = 440;

/// Where the data goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
}

impl Area {
    /// Returns the pixel at `part`, from 0 to 1, of the way from left to right.
    pub(super) fn x(&self, part: f64) -> i32 {
        between(self.left, self.right, part)
    }

    /// Returns the pixel at `part` of the way from below to above.
    pub(super) fn y(&self, part: f64) -> i32 {
        between(self.bottom, self.top, part)
    }
}

fn between(from: i32, to: i32, part: f64) -> i32 {
    let at = f64::from(from) + f64::from(to - from) * part.clamp(-0.1, 1.1);
    #[expect(clippy::cast_possible_truncation, reason = "between two pixels, or beside them")]
    {
        at.round() as i32
    }
}

pub(super) const fn ink(size: i32, side: Side) -> Letters {
    Letters { size, color: INK, side }
}

pub(super) const fn faint(size: i32, side: Side) -> Letters {
    Letters { size, color: FAINT, side }
}

/// Writes title and subtitle, and returns where they end.
pub(super) fn header(canvas: &Canvas<'_>, title: &str, subtitle: &str) -> i32 {
    let width = WIDTH - 2 * MARGIN;
    let mut y = MARGIN;
    for line in canvas.wrap(title, TITLE, width) {
        canvas.text((MARGIN, y + TITLE / 2), &line, ink(TITLE, Side::Left));
        y += TITLE * 5 / 4;
    }
    for line in canvas.wrap(subtitle, SMALL, width) {
        canvas.text((MARGIN, y + SMALL / 2), &line, faint(SMALL, Side::Left));
        y += SMALL * 4 / 3;
    }
    y + SMALL
}

/// Returns how many pixels the ticks of a vertical axis take.
pub(super) fn ticks_width(canvas: &Canvas<'_>, ruler: &Ruler) -> i32 {
    let widths = ruler.ticks.iter().map(|(_, name)| canvas.width(name, TEXT));
    widths.max().unwrap_or(0) + TICK_GAP
}

/// Draws a vertical axis: its label above it, a line through the data for each tick.
pub(super) fn y_axis(canvas: &Canvas<'_>, area: &Area, axis: &Axis, ruler: &Ruler) {
    canvas.text((MARGIN, area.top - TEXT * 3 / 2), &axis.label, faint(TEXT, Side::Left));
    for (at, name) in &ruler.ticks {
        let y = area.y(*at);
        canvas.path(vec![(area.left, y), (area.right, y)], GRID, 2);
        canvas.text((area.left - TICK_GAP, y), name, ink(TEXT, Side::Right));
    }
}

/// Draws a horizontal axis, and its label below it; with `lines`, a line through the data for each
/// tick. A name that would run into another one stands a line below it, if there it does not.
pub(super) fn x_axis(canvas: &Canvas<'_>, area: &Area, axis: &Axis, ruler: &Ruler, lines: bool) {
    canvas.path(vec![(area.left, area.bottom), (area.right, area.bottom)], INK, 3);
    let mut free_from = [i32::MIN; 2];
    for (at, name) in &ruler.ticks {
        let x = area.x(*at);
        let top = if lines { area.top } else { area.bottom };
        canvas.path(vec![(x, top), (x, area.bottom)], GRID, 2);
        canvas.path(vec![(x, area.bottom), (x, area.bottom + TICK_GAP / 2)], INK, 3);
        let half = canvas.width(name, TEXT) / 2;
        if let Some(row) = free_from.iter().position(|free| x - half >= *free) {
            let y = area.bottom + TEXT + if row == 0 { 0 } else { TEXT };
            canvas.text((x, y), name, ink(TEXT, Side::Middle));
            free_from[row] = x + half + TICK_GAP / 2;
        }
    }
    let rows = if free_from[1] == i32::MIN { 1 } else { 2 };
    axis_label(canvas, area, axis, area.bottom + TEXT * 3 / 2 + rows * TEXT);
}

/// Draws a horizontal axis whose names are those of groups.
pub(super) fn group_axis(canvas: &Canvas<'_>, area: &Area, axis: &Axis, ruler: &Ruler) {
    canvas.path(vec![(area.left, area.bottom), (area.right, area.bottom)], INK, 3);
    let count = i32::try_from(ruler.ticks.len().max(1)).expect("groups are few");
    let room = (area.right - area.left) / count - TICK_GAP / 2;
    let words = || ruler.ticks.iter().flat_map(|(_, name)| name.split_whitespace());
    let fits = |size: &i32| words().all(|word| canvas.width(word, *size) <= room);
    let size = (NAMES_SIZE_MIN..=TEXT).rev().find(fits).unwrap_or(NAMES_SIZE_MIN);
    let mut lines_max = 1;
    for (at, name) in &ruler.ticks {
        let lines = canvas.wrap(name, size, room);
        let mut y = area.bottom + TEXT;
        for line in lines.iter().take(GROUP_LINES) {
            canvas.text((area.x(*at), y), line, ink(size, Side::Middle));
            y += TEXT * 6 / 5;
        }
        lines_max = lines_max.max(lines.len().min(GROUP_LINES));
    }
    let lines = i32::try_from(lines_max).expect("lines are few");
    axis_label(canvas, area, axis, area.bottom + TEXT * 13 / 10 + lines * TEXT * 6 / 5);
}

fn axis_label(canvas: &Canvas<'_>, area: &Area, axis: &Axis, y: i32) {
    let middle = i32::midpoint(area.left, area.right);
    canvas.text((middle, y), &axis.label, faint(TEXT, Side::Middle));
}

/// Returns how far below the data a picture goes whose horizontal axis has names in `lines`.
pub(super) const fn foot(lines: i32) -> i32 {
    TEXT * 3 / 2 + lines * TEXT * 6 / 5 + MARGIN
}

/// Names beside the data, each with its mark.
#[derive(Debug)]
pub(super) struct Names {
    entries: Vec<Entry>,
    size: i32,
    /// Of the widest one, its mark included.
    pub(super) width: i32,
}

#[derive(Debug)]
struct Entry {
    index: usize,
    lines: Vec<String>,
    /// The height that it would like to have, and has.
    y: i32,
}

impl Names {
    /// Breaks names into lines so that all of them find room in `height` pixels.
    pub(super) fn new(canvas: &Canvas<'_>, series: &[Series], height: i32) -> Self {
        let names = series.iter().map(|Series { name, points, .. }| {
            let is_measured = points.iter().any(|point| point.y.is_finite());
            if is_measured { name.clone() } else { format!("{name} (not measured)") }
        });
        let mut size = TEXT;
        loop {
            let entries: Vec<Entry> = names
                .clone()
                .enumerate()
                .map(|(index, name)| Entry {
                    index,
                    lines: canvas.wrap(&name, size, NAMES_WIDTH_MAX),
                    y: 0,
                })
                .collect();
            let all: i32 = entries.iter().map(|entry| entry.height(size)).sum();
            if all <= height || size <= NAMES_SIZE_MIN {
                let lines = entries.iter().flat_map(|entry| &entry.lines);
                let widest = lines.map(|line| canvas.width(line, size)).max().unwrap_or(0);
                return Self { entries, size, width: widest + MARK_WIDTH + TICK_GAP };
            }
            size -= 1;
        }
    }

    /// Puts each name as near to its height, given by index, as the others let it.
    pub(super) fn place(&mut self, area: &Area, wanted: impl Fn(usize) -> i32) {
        let size = self.size;
        for entry in &mut self.entries {
            entry.y = wanted(entry.index);
        }
        self.entries.sort_by_key(|entry| (entry.y, entry.index));
        let mut free = area.top;
        for entry in &mut self.entries {
            let half = entry.height(size) / 2;
            entry.y = entry.y.max(free + half);
            free = entry.y + half;
        }
        let mut free = area.bottom;
        for entry in self.entries.iter_mut().rev() {
            let half = entry.height(size) / 2;
            entry.y = entry.y.min(free - half);
            free = entry.y - half;
        }
    }

    /// Writes the names; `mark` draws what stands before one.
    pub(super) fn draw(&self, canvas: &Canvas<'_>, left: i32, mark: impl Fn(usize, Place)) {
        for entry in &self.entries {
            mark(entry.index, (left + MARK_WIDTH / 2, entry.y));
            let count = i32::try_from(entry.lines.len()).expect("lines are few");
            let step = self.size * 6 / 5;
            let mut y = entry.y - (count - 1) * step / 2;
            for line in &entry.lines {
                canvas.text((left + MARK_WIDTH + 8, y), line, ink(self.size, Side::Left));
                y += step;
            }
        }
    }
}

impl Entry {
    fn height(&self, size: i32) -> i32 {
        let lines = i32::try_from(self.lines.len()).expect("lines are few");
        lines * size * 6 / 5 + size / 3
    }
}

/// Between a tick's name and the axis.
pub(super) const TICK_GAP: i32 = 16;
/// What stands before a name.
const MARK_WIDTH: i32 = 60;
const NAMES_SIZE_MIN: i32 = 18;
const GROUP_LINES: usize = 2;
