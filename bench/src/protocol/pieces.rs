//! What protocols of lines and values have in common when they come in pieces.

use super::{Malformed, Values, Verdict};

/// Lines that end with CR LF.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The beginning of a line that was cut; or a whole line, while somebody looks at it.
    cut: Vec<u8>,
    is_whole: bool,
}

impl Lines {
    /// Takes a line from the front of `bytes` and returns it without its end. `None`: all were
    /// taken.
    ///
    /// # Errors
    /// `malformed`, if it is too long to be one.
    pub(crate) fn next<'s, 'b: 's>(
        &'s mut self,
        bytes: &mut &'b [u8],
        malformed: Malformed,
    ) -> Result<Option<&'s [u8]>, Malformed> {
        if self.is_whole {
            self.cut.clear();
            self.is_whole = false;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        *bytes = rest;
        if self.cut.len() + line.len() > LINE_BYTES_MAX {
            return Err(malformed);
        }
        if end.is_some() && self.cut.is_empty() {
            return line.strip_suffix(b"\r\n").map(Some).ok_or(malformed);
        }
        self.cut.extend_from_slice(line);
        if end.is_none() {
            return Ok(None);
        }
        self.is_whole = true;
        self.cut.strip_suffix(b"\r\n").map(Some).ok_or(malformed)
    }
}

/// A value while it passes: compared, and not kept.
#[derive(Debug)]
pub(crate) struct Passing {
    at: usize,
    left: usize,
    matches: bool,
}

impl Passing {
    /// Starts with a value of `len` bytes.
    pub(crate) fn new(len: usize, values: &Values) -> Self {
        Self { at: 0, left: len, matches: len == values.len_bytes() }
    }

    /// Returns what it is worth as far as it has passed.
    pub(crate) fn verdict(&self) -> Verdict {
        if self.matches { Verdict::Good } else { Verdict::OtherBody }
    }

    /// Takes what belongs to the value from the front of `bytes`; returns true if that was the rest
    /// of it.
    pub(crate) fn take(&mut self, bytes: &mut &[u8], values: &Values, key: u64) -> bool {
        let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
        self.matches = self.matches && values.matches(key, self.at, piece);
        self.at += piece.len();
        self.left -= piece.len();
        *bytes = rest;
        self.left == 0
    }
}

/// Returns the decimal number that `text` is.
pub(crate) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Keeps the words of a refusal, as far as they are text and not endless.
pub(crate) fn keep_words(kept: &mut String, words: &[u8]) {
    kept.clear();
    let words = words.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    kept.extend(words.chars().take(WORDS_MAX));
}

const WORDS_MAX: usize = 200;
const LINE_BYTES_MAX: usize = 16 << 10;
