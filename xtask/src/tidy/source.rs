//! A Rust file as the checks see it: which bytes are code, comment or string, and which are tests.

use std::ops::Range;

/// What a byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Code,
    Comment,
    /// Strings and characters.
    Literal,
}

/// A Rust file.
pub(crate) struct Source {
    /// Relative to the root of the workspace, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    kinds: Vec<Kind>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), kinds: kinds(text.as_bytes()) }
    }

    /// Returns the text with all but `kinds` blanked; lines and offsets stay.
    pub(crate) fn only(&self, kinds: &[Kind]) -> String {
        let keep = |(byte, kind): (u8, &Kind)| match byte {
            b'\n' => b'\n',
            _ if kinds.contains(kind) => byte,
            _ => b' ',
        };
        let bytes = self.text.bytes().zip(&self.kinds).map(keep).collect();
        String::from_utf8(bytes).expect("characters are of one kind")
    }

    /// Returns the code alone.
    pub(crate) fn code(&self) -> String {
        self.only(&[Kind::Code])
    }

    /// Returns the number of the line that holds the byte at `at`, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
    }

    /// Returns true if the file stands in the package `crates/<name>`.
    pub(crate) fn is_in(&self, name: &str) -> bool {
        self.path
            .strip_prefix("crates/")
            .and_then(|p| p.strip_prefix(name))
            .is_some_and(|p| p.starts_with('/'))
    }

    /// Returns true if all of the file is tests: a `tests` directory or a `tests.rs`.
    pub(crate) fn is_tests(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// Returns the items of the file that stand under `#[cfg(test)]`, with the attribute.
    pub(crate) fn test_items(&self) -> Vec<Range<usize>> {
        const CFG: &str = "#[cfg(test)]";
        let code = self.code();
        let mut items = Vec::new();
        let mut from = 0;
        while let Some(found) = code[from..].find(CFG) {
            let start = from + found;
            from = item_end(&code, start + CFG.len());
            items.push(start..from);
        }
        items
    }
}

/// Returns where the item ends that starts at `from`: behind its `;` or its braces.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_u32;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Returns each word of `text` with its offset. A word is an identifier or a number.
pub(crate) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let base = text.as_ptr().addr();
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr().addr() - base, word))
}

fn kinds(text: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(text.len());
    while kinds.len() < text.len() {
        let at = kinds.len();
        let rest = &text[at..];
        let (kind, len) = match rest {
            [b'/', b'/', ..] => (Kind::Comment, line_len(rest)),
            [b'/', b'*', ..] => (Kind::Comment, block_len(rest)),
            [b'"', ..] => (Kind::Literal, string_len(rest, hashes_before(&text[..at]))),
            [b'\'', ..] => match char_len(rest) {
                Some(len) => (Kind::Literal, len),
                None => (Kind::Code, 1), // a lifetime
            },
            _ => (Kind::Code, 1),
        };
        kinds.resize(text.len().min(at + len), kind);
    }
    kinds
}

fn line_len(rest: &[u8]) -> usize {
    rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
}

fn block_len(rest: &[u8]) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// Returns the number of hashes of the raw string that opens behind `before`, if it is raw.
fn hashes_before(before: &[u8]) -> Option<usize> {
    let hashes = before.iter().rev().take_while(|b| **b == b'#').count();
    let prefix = before[..before.len() - hashes].strip_suffix(b"r")?;
    let prefix = prefix.strip_suffix(b"b").or_else(|| prefix.strip_suffix(b"c")).unwrap_or(prefix);
    let in_word = prefix.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    (!in_word).then_some(hashes)
}

fn string_len(rest: &[u8], raw: Option<usize>) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match (rest[at], raw) {
            (b'\\', None) => at += 1,
            (b'"', None) => return at + 1,
            (b'"', Some(hashes)) => {
                let tail = rest[at + 1..].iter().take(hashes);
                if tail.filter(|b| **b == b'#').count() == hashes {
                    return at + 1 + hashes;
                }
            }
            _ => {}
        }
        at += 1;
    }
    at
}

/// Returns the length of the character literal at the start of `rest`, or `None` if there is none.
fn char_len(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(3 + rest.get(3..)?.iter().position(|b| *b == b'\'')? + 1);
    }
    // One character of 1 to 4 bytes: those after the first are 0b10......
    let tail = rest.get(2..)?;
    let len = tail.iter().take_while(|b| **b & 0xc0 == 0x80).count();
    (tail.get(len) == Some(&b'\'')).then_some(3 + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("a.rs", text).code()
    }

    /// A check that takes a comment for code, or a string, names what is not there.
    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code(r#"a "b \" c" d"#), "a          d");
        assert_eq!(code(r###"a r#"b " c"# d"###), "a r#         d");
        assert_eq!(code(r"a '\'' b '/' c"), "a      b     c");
        assert_eq!(code(r"a b'\\' '\u{2f}' c"), "a b              c");
        assert_eq!(code(r#"a "// b" c"#), "a        c");
    }

    /// A lifetime taken for an open quote would hide the rest of the file.
    #[test]
    fn lifetimes_are_code() {
        assert_eq!(code("fn a<'a>(b: &'a str)"), "fn a<'a>(b: &'a str)");
    }

    #[test]
    fn views_keep_the_other_kinds() {
        let source = Source::new("a.rs", "a \"b\" // c");
        assert_eq!(source.only(&[Kind::Comment]), "      // c");
        assert_eq!(source.only(&[Kind::Code, Kind::Literal]), "a \"b\"     ");
    }

    #[test]
    fn test_items_end_where_they_end() {
        let text = "a\n#[cfg(test)]\nmod tests { fn b() { \"}\" } }\nc #[cfg(test)] mod d; e";
        let source = Source::new("a.rs", text);
        let items: Vec<&str> = source.test_items().into_iter().map(|r| &text[r]).collect();
        let module = "#[cfg(test)]\nmod tests { fn b() { \"}\" } }";
        assert_eq!(items, [module, "#[cfg(test)] mod d;"]);
    }

    #[test]
    fn words_come_with_their_offset() {
        let found: Vec<_> = words("ab::c_d(2)").collect();
        assert_eq!(found, [(0, "ab"), (4, "c_d"), (8, "2")]);
    }
}
