//! The region as a map: a cell for one buffer or several, row by row.

use std::fmt::{self, Write};

use impasto::region::layout::BUF_BYTES;

use crate::cli::{
    args::size_text,
    style::{Colour, Style},
};

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// Of a port; nobody is in a region at rest.
    Landing,
    Log,
    Kept,
    /// Kept, with less than a quarter live.
    Sparse,
    /// A part of the log that recovery cannot get past, or behind such a part.
    Damaged,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Free, Self::Landing, Self::Log, Self::Kept, Self::Sparse, Self::Damaged];

    pub(super) const fn letter(self) -> char {
        match self {
            Self::Free => '.',
            Self::Landing => 'P',
            Self::Log => 'L',
            Self::Kept => 'K',
            Self::Sparse => 's',
            Self::Damaged => 'X',
        }
    }

    const fn colour(self) -> Colour {
        match self {
            Self::Free => Colour::Faint,
            Self::Landing => Colour::Cyan,
            Self::Log => Colour::Blue,
            Self::Kept => Colour::Green,
            Self::Sparse => Colour::Yellow,
            Self::Damaged => Colour::Red,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Landing => "landing (none: at rest)",
            Self::Log => "log",
            Self::Kept => "kept",
            Self::Sparse => "sparse",
            Self::Damaged => "damaged",
        }
    }
}

/// Most lines of the map.
const LINES: usize = 16;
/// Before a line: the offset of its first cell.
const LABEL_BYTES: usize = 11;

/// The map, to be written.
#[derive(Debug)]
pub(super) struct Map<'a> {
    states: &'a [State],
    style: Style,
    columns: usize,
    /// Buffers of a cell.
    cell: usize,
}

impl<'a> Map<'a> {
    pub(super) fn new(states: &'a [State], style: Style) -> Self {
        Self::with_width(states, style, style.columns)
    }

    fn with_width(states: &'a [State], style: Style, width: usize) -> Self {
        // A line is a power of two, so that its offset is a round number.
        let columns = width.saturating_sub(LABEL_BYTES).clamp(16, 128);
        let columns = 1 << columns.ilog2();
        let cell = states.len().div_ceil(columns * LINES).next_power_of_two();
        Self { states, style, columns, cell }
    }

    pub(super) fn write(&self, text: &mut String) -> fmt::Result {
        let of = match self.cell {
            1 => format!("a buffer of {} KiB", BUF_BYTES >> 10),
            cell => format!("{cell} buffers, {}", size_text(cell as u64 * u64::from(BUF_BYTES))),
        };
        writeln!(text, "\n{}      each cell is {of}", self.style.title("map"))?;
        let line_bufs = self.columns * self.cell;
        for (line, states) in self.states.chunks(line_bufs).enumerate() {
            let at = (line * line_bufs) as u64 * u64::from(BUF_BYTES);
            let label = if at == 0 { "0".to_owned() } else { size_text(at) };
            write!(text, "{label:>9}  ")?;
            let cells: Vec<_> = states.chunks(self.cell).map(of_cell).collect();
            for run in cells.chunk_by(|one, other| one == other) {
                let letters: String = run.iter().map(|state| state.letter()).collect();
                text.push_str(&self.style.paint(run[0].colour(), &letters));
            }
            text.push('\n');
        }
        write!(text, "{:LABEL_BYTES$}", "")?;
        for (index, state) in State::ALL.into_iter().enumerate() {
            let gap = if index == 0 { "" } else { "  " };
            let letter = self.style.paint(state.colour(), &state.letter().to_string());
            write!(text, "{gap}{letter} {}", state.text())?;
        }
        text.push('\n');
        Ok(())
    }
}

/// Returns what a cell shows: damage wherever there is any, `free` if most of it is.
fn of_cell(states: &[State]) -> State {
    if states.contains(&State::Damaged) {
        return State::Damaged;
    }
    let count = |wanted: State| states.iter().filter(|state| **state == wanted).count();
    if count(State::Free) * 4 > states.len() * 3 {
        return State::Free;
    }
    let used = State::ALL.into_iter().filter(|state| *state != State::Free);
    used.max_by_key(|state| count(*state)).filter(|state| count(*state) > 0).unwrap_or(State::Free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(states: &[State], width: usize) -> String {
        let mut text = String::new();
        Map::with_width(states, Style::PLAIN, width).write(&mut text).unwrap();
        text
    }

    /// A map whose lines are longer than the terminal's is a heap of letters.
    #[test]
    fn the_map_fits_the_terminal_and_sixteen_lines() {
        for bufs in [60, 1020, 4092, 65_532, 1 << 22] {
            for width in [20, 80, 81, 200] {
                let text = drawn(&vec![State::Free; bufs], width);
                let rows: Vec<_> = text.lines().filter(|line| line.contains("....")).collect();
                assert!((1..=LINES).contains(&rows.len()), "{bufs} {width}: {}", rows.len());
                let longest = rows.iter().map(|row| row.len()).max().unwrap();
                assert!(longest <= width.max(LABEL_BYTES + 16), "{bufs} {width}: {longest}");
            }
        }
    }

    #[test]
    fn each_state_has_a_letter_in_its_place() {
        let mut states = vec![State::Free; 60];
        states[..8].fill(State::Log);
        states[8] = State::Kept;
        states[9] = State::Sparse;
        states[59] = State::Damaged;
        let text = drawn(&states, 80);
        let row = format!("        0  LLLLLLLLKs{}X\n", ".".repeat(49));
        assert!(text.contains(&row), "{text}");
        assert!(text.contains(". free  P landing (none: at rest)  L log  K kept  s sparse"));
    }

    /// Damage that is averaged away is not seen.
    #[test]
    fn a_cell_of_many_buffers_shows_damage_first_and_free_only_if_most_of_it_is() {
        use State::{Damaged, Free, Kept, Log};
        assert_eq!(of_cell(&[Log, Log, Log, Damaged]), Damaged);
        assert_eq!(of_cell(&[Free, Free, Free, Kept]), Kept);
        assert_eq!(of_cell(&[Free, Free, Free, Free, Kept]), Free);
        assert_eq!(of_cell(&[Free, Log, Kept, Kept]), Kept);
        assert_eq!(of_cell(&[Free, Free]), Free);
    }
}
