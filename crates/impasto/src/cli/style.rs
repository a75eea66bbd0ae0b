//! How text looks on a terminal: colour where it is one, and its width.

use std::{env, io::IsTerminal};

use anstyle::{AnsiColor, Effects};
use bytesize::ByteSize;
use rustix::termios::tcgetwinsize;

/// What stdout can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
    /// Characters of a line.
    pub(super) columns: usize,
}

/// A colour, by what a terminal calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Faint,
    Red,
    Yellow,
    Green,
    Blue,
    Cyan,
}

impl Style {
    /// For who is no terminal.
    pub(super) const PLAIN: Self = Self { colours: false, columns: 80 };

    /// Looks at stdout, and at `NO_COLOR` (no-color.org).
    pub(super) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Self::PLAIN;
        }
        let columns = tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
        let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { colours, columns: if columns == 0 { Self::PLAIN.columns } else { columns } }
    }

    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        let style = match colour {
            Colour::Faint => anstyle::Style::new().dimmed(),
            Colour::Red => AnsiColor::Red.on_default().effects(Effects::BOLD),
            Colour::Yellow => AnsiColor::Yellow.on_default(),
            Colour::Green => AnsiColor::Green.on_default(),
            Colour::Blue => AnsiColor::Blue.on_default().effects(Effects::BOLD),
            Colour::Cyan => AnsiColor::Cyan.on_default(),
        };
        self.with(style, text)
    }

    /// Marks the name of a part.
    pub(super) fn title(self, text: &str) -> String {
        self.with(anstyle::Style::new().bold(), text)
    }

    /// Marks what is bad.
    pub(super) fn bad(self, text: &str) -> String {
        self.paint(Colour::Red, text)
    }

    fn with(self, style: anstyle::Style, text: &str) -> String {
        if self.colours { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Returns a number of bytes for people: `37.5 MiB`.
pub(super) fn bytes_text(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}
