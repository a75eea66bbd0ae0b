//! Bars side by side, in groups.

use super::{
    Bars, Series,
    axis::{Ruler, number},
    canvas::{self, Canvas, Side},
    frame::{self, Area, HEIGHT, MARGIN, Names, TEXT, TICK_GAP, WIDTH, ink},
    palette::{INK, WHITE, comes_again, line},
};

pub(super) fn draw(bars: &Bars) -> String {
    canvas::draw(WIDTH, HEIGHT, |canvas| draw_on(canvas, bars))
}

fn draw_on(canvas: &Canvas<'_>, bars: &Bars) {
    let points = || bars.series.iter().flat_map(|series| &series.points);
    let x = Ruler::new(&bars.x.scale, &points().map(|point| point.x).collect::<Vec<_>>(), true);
    let y_values: Vec<f64> = points().flat_map(|point| [point.y, point.high]).collect();
    let y = Ruler::new(&bars.y.scale, &y_values, false);
    let header = frame::header(canvas, &bars.title, &bars.subtitle);
    let (top, bottom) = (header + TEXT * 2, HEIGHT - frame::foot(2));
    let mut names = Names::new(canvas, &bars.series, bottom - top);
    let left = MARGIN + frame::ticks_width(canvas, &y);
    let area = Area { left, top, right: WIDTH - MARGIN - names.width - TICK_GAP, bottom };
    frame::y_axis(canvas, &area, &bars.y, &y);
    let group = Group::new(&area, x.ticks.len(), bars.series.len());
    for (index, series) in bars.series.iter().enumerate() {
        draw_series(canvas, &area, [&x, &y], &group, index, series);
    }
    frame::group_axis(canvas, &area, &bars.x, &x);
    names.place(&area, |_| area.top);
    names.draw(canvas, area.right + TICK_GAP, |index, (x, y)| {
        bar(canvas, index, [(x - 22, y - 12), (x + 22, y + 12)]);
    });
}

/// How the bars of a group stand.
struct Group {
    /// From the middle of the group to its first bar.
    before: i32,
    /// From a bar to the next one.
    step: i32,
    width: i32,
}

impl Group {
    fn new(area: &Area, groups: usize, series: usize) -> Self {
        let count = |count: usize| i32::try_from(count.max(1)).expect("bars are few");
        let room = (area.right - area.left) / count(groups) * 4 / 5;
        let step = (room / count(series)).clamp(3, BAR_WIDTH_MAX);
        Self { before: step * count(series) / 2, step, width: (step - step / 8 - 1).max(2) }
    }
}

fn draw_series(
    canvas: &Canvas<'_>,
    area: &Area,
    [x, y]: [&Ruler; 2],
    group: &Group,
    index: usize,
    series: &Series,
) {
    let bars_before = i32::try_from(index).expect("series are few");
    for point in &series.points {
        let Some(middle) = x.at(point.x) else { continue };
        let left = area.x(middle) - group.before + bars_before * group.step;
        let (right, center) = (left + group.width, left + group.width / 2);
        let Some(at) = y.at(point.y) else {
            canvas.text((center, area.bottom - 14), "?", ink(TEXT * 3 / 4, Side::Middle));
            continue;
        };
        let base = y.at(0.0).map_or(area.bottom, |at| area.y(at));
        let top = area.y(at);
        bar(canvas, index, [(left, top), (right, base)]);
        let mut above = top;
        if let (Some(low), Some(high)) = (y.end_at(point.low), y.end_at(point.high)) {
            let (low, high) = (area.y(low), area.y(high));
            canvas.rectangle((center - 1, high), (center + 2, low), INK);
            above = above.min(high);
        }
        let said = number(point.y);
        let size = TEXT * 5 / 7;
        if canvas.width(&said, size) <= group.step * 6 / 5 {
            canvas.text((center, above - size * 2 / 3), &said, ink(size, Side::Middle));
        }
    }
}

/// Draws a bar, hollow if its colour comes again.
fn bar(canvas: &Canvas<'_>, index: usize, [from, to]: [canvas::Place; 2]) {
    let (from, to) = ((from.0, from.1.min(to.1)), (to.0, from.1.max(to.1)));
    canvas.rectangle(from, to, line(index));
    let edge = ((to.0 - from.0) / 4).clamp(1, 4);
    if comes_again(index) && to.0 - from.0 > 2 * edge && to.1 - from.1 > 2 * edge {
        canvas.rectangle((from.0 + edge, from.1 + edge), (to.0 - edge, to.1 - edge), WHITE);
    }
}

const BAR_WIDTH_MAX: i32 = 110;
