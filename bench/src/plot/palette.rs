//! Colours that colour-blind people tell apart (Okabe and Ito), and marks for those who see none.

use plotters::style::RGBColor;

use super::canvas::{Canvas, Place};

/// Of text and axes.
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Of what is said in small letters.
pub(super) const FAINT: RGBColor = RGBColor(0x59, 0x59, 0x59);
/// Of lines behind the data.
pub(super) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
pub(super) const WHITE: RGBColor = RGBColor(0xff, 0xff, 0xff);

const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const VERMILLION: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const PURPLE: RGBColor = RGBColor(0xcc, 0x79, 0xa7);
const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
const SKY: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
const YELLOW: RGBColor = RGBColor(0xf0, 0xe4, 0x42);
const BLACK: RGBColor = RGBColor(0, 0, 0);
const GREY: RGBColor = RGBColor(0xbb, 0xbb, 0xbb);

/// Of lines: without yellow, which is too pale for one on white.
const LINES: [RGBColor; 7] = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK];
/// Of areas side by side: neighbours differ in lightness, too. The first is what all have.
const AREAS: [RGBColor; 8] = [GREY, SKY, YELLOW, GREEN, ORANGE, VERMILLION, BLUE, PURPLE];

/// Returns the colour of line `index`.
pub(super) const fn line(index: usize) -> RGBColor {
    LINES[index % LINES.len()]
}

/// Returns the colour of area `index`.
pub(super) const fn area(index: usize) -> RGBColor {
    AREAS[index % AREAS.len()]
}

/// Returns true if line `index` has the colour of an earlier one.
pub(super) const fn comes_again(index: usize) -> bool {
    index >= LINES.len()
}

/// Returns the colour of text on `ground`.
pub(super) fn ink_on(ground: RGBColor) -> RGBColor {
    if contrast(WHITE, ground) > contrast(INK, ground) { WHITE } else { INK }
}

/// Returns how well two colours are told apart, from 1 to 21 (WCAG 2).
fn contrast(one: RGBColor, other: RGBColor) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

/// Returns how light a colour is, from 0 to 1 (WCAG 2, without its gamma's straight part).
fn luminance(RGBColor(red, green, blue): RGBColor) -> f64 {
    let linear = |part: u8| (f64::from(part) / 255.0).powf(2.2);
    0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
}

/// Draws the mark of line `index`, hollow if its colour comes again.
pub(super) fn mark(canvas: &Canvas<'_>, index: usize, at: Place, radius: i32) {
    shape(canvas, index, at, radius, line(index));
    if comes_again(index) {
        shape(canvas, index, at, radius - 4, WHITE);
    }
}

fn shape(canvas: &Canvas<'_>, index: usize, (x, y): Place, radius: i32, color: RGBColor) {
    let (wide, narrow) = (radius * 5 / 4, radius * 7 / 8);
    let corners = match index % 5 {
        0 => return canvas.circle((x, y), radius, color),
        1 => vec![(-narrow, -narrow), (narrow, -narrow), (narrow, narrow), (-narrow, narrow)],
        2 => vec![(0, -wide), (wide, narrow), (-wide, narrow)],
        3 => vec![(0, -wide), (wide, 0), (0, wide), (-wide, 0)],
        _ => vec![(0, wide), (wide, -narrow), (-wide, -narrow)],
    };
    canvas.polygon(corners.into_iter().map(|(dx, dy)| (x + dx, y + dy)).collect(), color);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two colours that are too alike are one line.
    #[test]
    fn colours_are_far_from_each_other_and_from_the_ground() {
        let apart = |RGBColor(a, b, c): RGBColor, RGBColor(d, e, f): RGBColor| {
            let squares = [(a, d), (b, e), (c, f)].map(|(one, other)| {
                let difference = f64::from(one) - f64::from(other);
                difference * difference
            });
            squares.iter().sum::<f64>().sqrt()
        };
        for colors in [&LINES[..], &AREAS] {
            for (index, color) in colors.iter().enumerate() {
                assert!(apart(*color, WHITE) > 100.0, "{color:?}");
                for other in &colors[..index] {
                    assert!(apart(*color, *other) > 60.0, "{color:?} {other:?}");
                }
            }
        }
    }

    /// Lines of one colour would be told apart by nothing.
    #[test]
    fn no_two_of_many_lines_look_alike() {
        let looks = |index: usize| (index % LINES.len(), index % 5, comes_again(index));
        for index in 0..35 {
            assert!((0..index).all(|other| looks(other) != looks(index)), "{index}");
        }
    }

    #[test]
    fn text_is_readable_on_every_area() {
        for ground in AREAS {
            assert!(contrast(ink_on(ground), ground) > 4.0, "{ground:?}");
        }
    }
}
