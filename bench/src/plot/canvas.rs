//! The drawing surface: shapes and text become an SVG, and that becomes the PNG.
//!
//! So both files show the same. Text is measured and painted with a font that comes with a crate; a
//! browser that shows the SVG takes its own, so room is left for a wider one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use plotters::{
    coord::Shift,
    prelude::{
        Circle, DrawingArea, FontStyle, IntoDrawingArea, PathElement, Polygon, Rectangle,
        SVGBackend, Text,
    },
    style::{
        Color, FontFamily, RGBColor, ShapeStyle, TextStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};
use resvg::{tiny_skia, usvg};

use super::PlotError;

/// Where something stands, in pixels from the upper left.
pub(super) type Place = (i32, i32);

/// A picture that is being drawn.
pub(super) struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letters {
    pub(super) size: i32,
    pub(super) color: RGBColor,
    pub(super) side: Side,
}

/// Which end of a text stands at its place; in height it is its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Middle,
    Right,
}

/// Draws a picture of `width` by `height` pixels and returns it as SVG.
pub(super) fn draw(width: i32, height: i32, act: impl FnOnce(&Canvas<'_>)) -> String {
    font();
    let mut svg = String::new();
    {
        let size = (width.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        // A page that shows it may be dark.
        area.fill(&WHITE).expect(IN_MEMORY);
        let canvas = Canvas(area);
        act(&canvas);
        canvas.0.present().expect(IN_MEMORY);
    }
    svg
}

/// Writes `svg` to `path` with the endings `svg` and `png`.
pub(super) fn write(svg: &str, path: &Path) -> Result<[PathBuf; 2], PlotError> {
    let png = to_png(svg);
    let with_ending = |ending: &str| {
        let mut whole = path.as_os_str().to_owned();
        whole.push(ending);
        PathBuf::from(whole)
    };
    let files = [(with_ending(".svg"), svg.as_bytes()), (with_ending(".png"), &png)];
    for (path, bytes) in &files {
        fs::write(path, bytes).map_err(|error| PlotError { path: path.clone(), error })?;
    }
    Ok(files.map(|(path, _)| path))
}

fn to_png(svg: &str) -> Vec<u8> {
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(font().to_vec());
    let family = fonts.faces().next().map(|face| face.families[0].0.clone());
    fonts.set_sans_serif_family(family.expect("the font has a name"));
    let tree = usvg::Tree::from_str(svg, &options).expect("what was drawn is well-formed");
    let size = tree.size().to_int_size();
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height())
        .expect("a picture is neither empty nor endless");
    resvg::render(&tree, tiny_skia::Transform::identity(), &mut pixels.as_mut());
    pixels.encode_png().expect(IN_MEMORY)
}

/// Returns the font, known to the crate that measures from then on.
fn font() -> &'static [u8] {
    static FONT: OnceLock<&[u8]> = OnceLock::new();
    FONT.get_or_init(|| {
        let bytes = epaint_default_fonts::UBUNTU_LIGHT;
        let is_taken = register_font(FAMILY, FontStyle::Normal, bytes).is_ok();
        assert!(is_taken, "the font that comes with the crate is one");
        bytes
    })
}

impl Canvas<'_> {
    /// Draws a line through `places`.
    pub(super) fn path(&self, places: Vec<Place>, color: RGBColor, width: u32) {
        let style = ShapeStyle::from(&color).stroke_width(width);
        self.0.draw(&PathElement::new(places, style)).expect(IN_MEMORY);
    }

    pub(super) fn polygon(&self, corners: Vec<Place>, color: RGBColor) {
        self.0.draw(&Polygon::new(corners, color.filled())).expect(IN_MEMORY);
    }

    pub(super) fn rectangle(&self, from: Place, to: Place, color: RGBColor) {
        self.0.draw(&Rectangle::new([from, to], color.filled())).expect(IN_MEMORY);
    }

    pub(super) fn circle(&self, center: Place, radius: i32, color: RGBColor) {
        self.0.draw(&Circle::new(center, radius, color.filled())).expect(IN_MEMORY);
    }

    pub(super) fn text(&self, at: Place, text: &str, letters: Letters) {
        let side = match letters.side {
            Side::Left => HPos::Left,
            Side::Middle => HPos::Center,
            Side::Right => HPos::Right,
        };
        let style = style(letters.size).color(&letters.color).pos(Pos::new(side, VPos::Center));
        self.0.draw(&Text::new(text.to_owned(), at, style)).expect(IN_MEMORY);
    }

    /// Returns the most pixels that `text` is wide.
    pub(super) fn width(&self, text: &str, size: i32) -> i32 {
        let (width, _) = self.0.estimate_text_size(text, &style(size)).expect("the font is known");
        i32::try_from(width).expect("a text is not endless") * 106 / 100
    }

    /// Breaks `text` into lines of at most `width` pixels, between words where it can.
    pub(super) fn wrap(&self, text: &str, size: i32, width: i32) -> Vec<String> {
        let fits = |text: &str| self.width(text, size) <= width;
        let mut lines = vec![String::new()];
        for mut word in text.split_whitespace() {
            let line = lines.last_mut().expect("there is always a line");
            if line.is_empty() {
                line.push_str(word);
            } else if fits(&format!("{line} {word}")) {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
            // A word that is too long for any line.
            while !fits(word) && word.chars().count() > 1 {
                let ends = word.char_indices().map(|(at, _)| at).skip(1);
                let end = ends.take_while(|end| fits(&word[..*end])).last().unwrap_or(word.len());
                let (first, rest) = word.split_at(end);
                if rest.is_empty() {
                    break;
                }
                *lines.last_mut().expect("there is always a line") = first.to_owned();
                lines.push(rest.to_owned());
                word = rest;
            }
        }
        lines
    }
}

fn style(size: i32) -> TextStyle<'static> {
    // The backend divides by this.
    TextStyle::from((FontFamily::Name(FAMILY), f64::from(size) * 1.24))
}

/// What a browser takes, in this order.
const FAMILY: &str = "Ubuntu, Helvetica, Arial, sans-serif";
const IN_MEMORY: &str = "memory takes every shape";
const WHITE: RGBColor = RGBColor(255, 255, 255);
