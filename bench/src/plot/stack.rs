//! Bars from left to right, each made of parts.

use super::{
    Layers, Stack,
    axis::{Ruler, number},
    canvas::{self, Canvas, Side},
    frame::{self, Area, MARGIN, NAMES_WIDTH_MAX, TEXT, TICK_GAP, WIDTH, faint, ink},
    palette::{INK, WHITE, area as color, ink_on},
};

pub(super) fn draw(stack: &Stack) -> String {
    let count = i32::try_from(stack.bars.len()).expect("bars are few");
    // How high the header is depends on how its text is broken.
    let header_height = std::cell::Cell::new(0);
    canvas::draw(WIDTH, 100, |canvas| header_height.set(header(canvas, stack)));
    let top = header_height.get();
    let bottom = top + count.max(1) * BAR_STEP + TICK_GAP;
    canvas::draw(WIDTH, bottom + frame::foot(1), |canvas| {
        header(canvas, stack);
        draw_on(canvas, stack, top, bottom);
    })
}

/// Writes title and legend, and returns where they end.
fn header(canvas: &Canvas<'_>, stack: &Stack) -> i32 {
    let mut y = frame::header(canvas, &stack.title, &stack.subtitle) + TEXT / 2;
    let mut x = MARGIN;
    let named = stack.parts.iter().map(String::as_str);
    let whole = stack.bars.iter().any(|bar| !bar.whole.is_nan()).then_some(stack.whole.as_str());
    for (index, name) in named.chain(whole).enumerate() {
        let width = SWATCH + 10 + canvas.width(name, TEXT);
        if x + width > WIDTH - MARGIN && x > MARGIN {
            (x, y) = (MARGIN, y + TEXT * 7 / 4);
        }
        if index < stack.parts.len() {
            canvas.rectangle((x, y - SWATCH / 2), (x + SWATCH, y + SWATCH / 2), color(index));
        } else {
            whole_mark(canvas, x + SWATCH / 2, y - SWATCH / 2, y + SWATCH / 2);
        }
        canvas.text((x + SWATCH + 10, y), name, ink(TEXT, Side::Left));
        x += width + 2 * TICK_GAP;
    }
    y + TEXT * 3 / 2
}

fn draw_on(canvas: &Canvas<'_>, stack: &Stack, top: i32, bottom: i32) {
    let names: Vec<Vec<String>> =
        stack.bars.iter().map(|bar| canvas.wrap(&bar.name, TEXT, NAMES_WIDTH_MAX)).collect();
    let widest = names.iter().flatten().map(|line| canvas.width(line, TEXT)).max().unwrap_or(0);
    let sums: Vec<f64> = stack.bars.iter().map(sum).collect();
    let ends: Vec<f64> =
        stack.bars.iter().zip(&sums).flat_map(|(bar, sum)| [bar.whole, *sum]).collect();
    let ruler = Ruler::new(&stack.axis.scale, &ends, false);
    let said: Vec<String> = sums.iter().map(|sum| said(*sum)).collect();
    let room = said.iter().map(|text| canvas.width(text, TEXT)).max().unwrap_or(0);
    let right = WIDTH - MARGIN - room - TICK_GAP;
    let area = Area { left: MARGIN + widest + TICK_GAP, top, right, bottom };
    frame::x_axis(canvas, &area, &stack.axis, &ruler, true);
    let mut middle = top + BAR_STEP / 2;
    for (index, bar) in stack.bars.iter().enumerate() {
        let count = i32::try_from(names[index].len()).expect("lines are few");
        let step = TEXT * 11 / 10;
        let mut y = middle - (count - 1) * step / 2;
        for line in &names[index] {
            canvas.text((area.left - TICK_GAP, y), line, ink(TEXT, Side::Right));
            y += step;
        }
        let end = draw_bar(canvas, &area, &ruler, middle, bar);
        let letters = if sums[index].is_nan() { faint } else { ink };
        canvas.text((end + TICK_GAP, middle), &said[index], letters(TEXT, Side::Left));
        middle += BAR_STEP;
    }
}

/// Draws a bar, and returns where it ends.
fn draw_bar(canvas: &Canvas<'_>, area: &Area, ruler: &Ruler, middle: i32, bar: &Layers) -> i32 {
    let (top, bottom) = (middle - BAR_HEIGHT / 2, middle + BAR_HEIGHT / 2);
    let x = |value: f64| ruler.at(value).map_or(area.left, |at| area.x(at));
    let (mut value, mut end) = (0.0, area.left);
    for (index, part) in bar.parts.iter().enumerate().filter(|(_, part)| **part > 0.0) {
        let left = x(value);
        value += part;
        end = x(value);
        if end > left {
            canvas.rectangle((left, top), (end, bottom), color(index));
            if end - left > 8 {
                canvas.rectangle((end - 2, top), (end, bottom), WHITE);
            }
        }
        let said = number(rounded(*part));
        if canvas.width(&said, PART_TEXT) + 12 <= end - left {
            let mut letters = ink(PART_TEXT, Side::Middle);
            letters.color = ink_on(color(index));
            canvas.text((i32::midpoint(left, end), middle), &said, letters);
        }
    }
    if !bar.whole.is_nan() {
        let at = x(bar.whole);
        whole_mark(canvas, at, top, bottom);
        end = end.max(at + 8);
    }
    end
}

/// Draws what marks the sum as it was measured otherwise: two wedges that a bar's end meets.
fn whole_mark(canvas: &Canvas<'_>, x: i32, top: i32, bottom: i32) {
    canvas.polygon(vec![(x - 9, top - 10), (x + 9, top - 10), (x, top + 4)], INK);
    canvas.polygon(vec![(x - 9, bottom + 10), (x + 9, bottom + 10), (x, bottom - 4)], INK);
}

/// Returns the sum of what was measured; NaN if that is nothing.
fn sum(bar: &Layers) -> f64 {
    let measured = bar.parts.iter().copied().filter(|part| part.is_finite());
    measured.reduce(|sum, part| sum + part).unwrap_or(f64::NAN)
}

fn said(sum: f64) -> String {
    if sum.is_nan() { "not measured".into() } else { number(rounded(sum)) }
}

/// Returns `value` with the digits that a reader can use.
fn rounded(value: f64) -> f64 {
    if value >= 10.0 { value.round() } else { (value * 10.0).round() / 10.0 }
}

const BAR_STEP: i32 = 76;
const BAR_HEIGHT: i32 = 46;
const PART_TEXT: i32 = 24;
const SWATCH: i32 = 28;
