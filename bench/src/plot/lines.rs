//! Lines with marks and whiskers, and their names at their ends.

use super::{
    Axis, Chart, Percentiles, Point, Scale, Series,
    axis::Ruler,
    canvas::{self, Canvas, Place},
    frame::{self, Area, HEIGHT, MARGIN, Names, TEXT, TICK_GAP, WIDTH},
    palette::{line, mark},
};

pub(super) fn draw(chart: &Chart) -> String {
    canvas::draw(WIDTH, HEIGHT, |canvas| draw_on(canvas, chart))
}

pub(super) fn draw_percentiles(percentiles: &Percentiles) -> String {
    let Percentiles { title, subtitle, y, series } = percentiles.clone();
    let x = Axis { label: "percentile".into(), scale: Scale::Nines };
    draw(&Chart { title, subtitle, x, y, series })
}

/// A picture whose axes fit its data.
struct Plane<'a, 'c> {
    canvas: &'a Canvas<'c>,
    area: Area,
    x: Ruler,
    y: Ruler,
}

fn draw_on(canvas: &Canvas<'_>, chart: &Chart) {
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let x_values: Vec<f64> = points().map(|point| point.x).collect();
    let y_values: Vec<f64> = points().flat_map(|point| [point.y, point.low, point.high]).collect();
    let x = Ruler::new(&chart.x.scale, &x_values, true);
    let y = Ruler::new(&chart.y.scale, &y_values, false);
    let header = frame::header(canvas, &chart.title, &chart.subtitle);
    let (top, bottom) = (header + TEXT * 2, HEIGHT - frame::foot(2));
    let mut names = Names::new(canvas, &chart.series, bottom - top);
    let left = MARGIN + frame::ticks_width(canvas, &y);
    let area = Area { left, top, right: WIDTH - MARGIN - names.width - NAMES_GAP, bottom };
    frame::y_axis(canvas, &area, &chart.y, &y);
    match chart.x.scale {
        Scale::Categories(_) => frame::group_axis(canvas, &area, &chart.x, &x),
        _ => frame::x_axis(canvas, &area, &chart.x, &x, true),
    }
    let plane = Plane { canvas, area, x, y };
    let places: Vec<Vec<Option<Place>>> = chart
        .series
        .iter()
        .map(|series| series.points.iter().map(|point| plane.place(point)).collect())
        .collect();
    // What the picture is about stands in front.
    let mut order: Vec<usize> = (0..chart.series.len()).collect();
    order.sort_by_key(|index| (chart.series[*index].emphasis, usize::MAX - index));
    for index in order {
        plane.draw(index, &chart.series[index], &places[index]);
    }
    let end = |index: usize| places[index].iter().flatten().last().map(|(_, y)| *y);
    names.place(&area, |index| end(index).unwrap_or(area.bottom));
    let left = area.right + NAMES_GAP;
    names.draw(canvas, left, |index, (x, y)| {
        let last = places[index].iter().flatten().last();
        // A name is tied to its line: others may have taken its place. Not if the line ends before:
        // it would go on.
        if let Some((last_x, last_y)) = last.filter(|(x, _)| area.right - x < NAMES_GAP) {
            canvas.path(vec![(last_x + RADIUS, *last_y), (left, y)], line(index), 1);
        }
        let (width, radius) = weight(&chart.series[index]);
        canvas.rectangle((x - 26, y - width / 2), (x + 26, y - width / 2 + width), line(index));
        mark(canvas, index, (x, y), radius);
    });
}

impl Plane<'_, '_> {
    fn place(&self, point: &Point) -> Option<Place> {
        Some((self.area.x(self.x.at(point.x)?), self.area.y(self.y.at(point.y)?)))
    }

    fn draw(&self, index: usize, series: &Series, places: &[Option<Place>]) {
        let (width, radius) = weight(series);
        for (point, place) in series.points.iter().zip(places) {
            if let (Some((x, _)), Some(low), Some(high)) =
                (place, self.y.end_at(point.low), self.y.end_at(point.high))
            {
                self.whisker(index, *x, self.area.y(low), self.area.y(high));
            }
        }
        // A missing value parts the line.
        for run in places.split(Option::is_none).filter(|run| run.len() > 1) {
            let run = run.iter().flatten().copied().collect();
            self.canvas.path(run, line(index), width.unsigned_abs());
        }
        for place in places.iter().flatten() {
            mark(self.canvas, index, *place, radius);
        }
    }

    fn whisker(&self, index: usize, x: i32, low: i32, high: i32) {
        self.canvas.rectangle((x - 1, high), (x + 2, low), line(index));
        for y in [low, high] {
            self.canvas.rectangle((x - 8, y - 1), (x + 9, y + 2), line(index));
        }
    }
}

/// Returns how wide a line is, and how great its marks.
const fn weight(series: &Series) -> (i32, i32) {
    if series.emphasis { (8, RADIUS + 3) } else { (4, RADIUS) }
}

const RADIUS: i32 = 10;
/// Between the data and the names.
const NAMES_GAP: i32 = 3 * TICK_GAP;
