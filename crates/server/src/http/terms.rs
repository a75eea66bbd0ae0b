//! On which terms a record is wanted: conditions (RFC 9110, 13) and ranges (14).

use httparse::Header;

use super::{
    digest::{Algorithm, Expected},
    route::decimal,
};

/// A record, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number.
    pub seq: u64,
    /// Its length in bytes.
    pub len: u32,
    /// The CRC-64/NVME of its bytes. With the number it is the validator: a region made anew has
    /// other bytes under the same numbers.
    pub checksum: u64,
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its first byte.
    pub first: u32,
    /// Its last byte.
    pub last: u32,
}

impl Part {
    /// Returns its length in bytes.
    pub(crate) const fn bytes(self) -> u32 {
        self.last - self.first + 1
    }
}

/// What a request says beyond its target. Few do: so it stands in a box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// `Origin`, if it is not that of the server.
    pub origin: Option<Box<str>>,
    /// What the content of an append has to be.
    pub expected: Option<Box<Expected>>,
    /// `If-Match`.
    matches: Option<Tags>,
    /// `If-None-Match`.
    none_match: Option<Tags>,
    /// `Range`, if it is one that is understood.
    range: Option<Range>,
    /// `If-Range`; with nothing in it, none that can be met.
    if_range: Option<Option<Tag>>,
    /// `Want-Content-Digest`.
    wanted: Option<Algorithm>,
}

/// What of a record is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it.
    Whole,
    /// A part of it.
    Part(Part),
    /// Nothing: the client has it.
    NotModified,
    /// Nothing: it is not the one that is wanted.
    Failed,
    /// Nothing: the range is beyond its end.
    Beyond,
}

/// What an `ETag` of ours says: number and checksum.
type Tag = (u64, u64);

/// A list of entity tags, as far as they are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tags {
    any: bool,
    tags: Vec<Tag>,
}

/// The one range of a `Range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// From a byte to another one, if there are so many.
    From(u64, u64),
    /// So many at the end.
    Last(u64),
}

impl Terms {
    /// Reads the fields that say something about a record.
    pub(super) fn read(&mut self, headers: &[Header<'_>]) {
        let mut ranges = 0;
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("if-match") {
                self.matches.get_or_insert_default().add(header.value, Compared::Strongly);
            } else if is("if-none-match") {
                self.none_match.get_or_insert_default().add(header.value, Compared::Weakly);
            } else if is("range") {
                ranges += 1;
                self.range = parse_range(header.value);
            } else if is("if-range") {
                // A date is none that is kept here; and what is weak says nothing about bytes.
                let tag = Tokens(header.value).next();
                self.if_range = Some(tag.filter(|tag| !tag.is_weak).and_then(Token::ours));
            } else if is("want-content-digest") {
                self.wanted = Algorithm::preferred(header.value);
            }
        }
        if ranges > 1 {
            self.range = None;
        }
    }

    /// Returns those of an append whose content has to be as `expected`.
    pub(super) fn of_content(expected: Expected) -> Self {
        Self { expected: Some(Box::new(expected)), ..Self::default() }
    }

    /// Returns true if they can be met by a record only.
    pub(super) fn have_conditions(&self) -> bool {
        self.matches.is_some() || self.none_match.as_ref().is_some_and(|tags| tags.any)
    }

    /// Returns true if nothing is in it.
    pub(super) fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the digest that is asked for.
    pub(crate) const fn wanted(&self) -> Option<Algorithm> {
        self.wanted
    }

    /// Decides what of `record` is to be sent (RFC 9110, 13.2.2). Only a GET has ranges.
    pub fn judge(&self, record: Record, is_get: bool) -> Verdict {
        let tag = (record.seq, record.checksum);
        if self.matches.as_ref().is_some_and(|tags| !tags.have(tag)) {
            return Verdict::Failed;
        }
        if self.none_match.as_ref().is_some_and(|tags| tags.have(tag)) {
            return Verdict::NotModified;
        }
        let is_same = self.if_range.is_none_or(|wanted| wanted == Some(tag));
        match self.range {
            Some(range) if is_get && is_same => range.of(record.len),
            _ => Verdict::Whole,
        }
    }
}

impl Tags {
    fn add(&mut self, list: &[u8], compared: Compared) {
        if list.trim_ascii() == b"*" {
            self.any = true;
            return;
        }
        let fitting = Tokens(list).filter(|tag| compared == Compared::Weakly || !tag.is_weak);
        self.tags.extend(fitting.filter_map(Token::ours));
    }

    fn have(&self, tag: Tag) -> bool {
        self.any || self.tags.contains(&tag)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Strongly,
    Weakly,
}

/// The entity tags of a list, up to the first thing that is none.
struct Tokens<'a>(&'a [u8]);

#[derive(Clone, Copy)]
struct Token<'a> {
    is_weak: bool,
    /// What stands between the quotes.
    text: &'a [u8],
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let is_between = |byte: &u8| matches!(byte, b' ' | b'\t' | b',');
        let start = self.0.iter().position(|byte| !is_between(byte))?;
        let rest = &self.0[start..];
        let (is_weak, rest) = match rest.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.strip_prefix(b"\"")?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        self.0 = &rest[end + 1..];
        Some(Token { is_weak, text: &rest[..end] })
    }
}

impl Token<'_> {
    /// Returns what it says, if it is one of ours.
    fn ours(self) -> Option<Tag> {
        let (seq, checksum) = std::str::from_utf8(self.text).ok()?.split_once('-')?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if seq.starts_with('0') || checksum.len() != 16 || !checksum.bytes().all(is_hex) {
            return None;
        }
        Some((decimal(seq)?, u64::from_str_radix(checksum, 16).ok()?))
    }
}

/// Returns the range of a `Range` that has one, in bytes. All others may be ignored (RFC 9110,
/// 14.2).
fn parse_range(value: &[u8]) -> Option<Range> {
    let (unit, range) = std::str::from_utf8(value).ok()?.split_once('=')?;
    if !unit.trim_ascii().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim_ascii().split_once('-')?;
    match (first, last) {
        ("", last) => Some(Range::Last(saturated(last)?)),
        (first, "") => Some(Range::From(saturated(first)?, u64::MAX)),
        (first, last) => {
            let (first, last) = (saturated(first)?, saturated(last)?);
            (first <= last).then_some(Range::From(first, last))
        }
    }
}

/// Returns the number that `text` is, or the largest there is.
fn saturated(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

impl Range {
    fn of(self, len: u32) -> Verdict {
        let narrow = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        let Some(end) = len.checked_sub(1) else {
            // Nothing has no part; the last bytes of it are all of it.
            return if let Self::Last(1..) = self { Verdict::Whole } else { Verdict::Beyond };
        };
        match self {
            Self::Last(0) => Verdict::Beyond,
            Self::Last(count) => {
                Verdict::Part(Part { first: len.saturating_sub(narrow(count)), last: end })
            }
            Self::From(first, _) if first > u64::from(end) => Verdict::Beyond,
            Self::From(first, last) => {
                Verdict::Part(Part { first: narrow(first), last: narrow(last).min(end) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record { seq: 7, len: 10, checksum: 0xab };

    fn verdict(fields: &[(&str, &str)]) -> Verdict {
        let headers: Vec<_> =
            fields.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        let mut terms = Terms::default();
        terms.read(&headers);
        terms.judge(RECORD, true)
    }

    fn part(first: u32, last: u32) -> Verdict {
        Verdict::Part(Part { first, last })
    }

    /// A range that is read wrongly gives a client bytes that it puts in the wrong place.
    #[test]
    fn one_range_is_one_part() {
        for (range, expected) in [
            ("bytes=0-9", part(0, 9)),
            ("bytes=0-0", part(0, 0)),
            ("Bytes=2-4", part(2, 4)),
            ("bytes= 2-4 ", part(2, 4)),
            ("bytes=9-", part(9, 9)),
            ("bytes=3-99999999999999999999999", part(3, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-99999999999999999999999", part(0, 9)),
            ("bytes=10-", Verdict::Beyond),
            ("bytes=4294967296-", Verdict::Beyond),
            ("bytes=99999999999999999999999-", Verdict::Beyond),
            ("bytes=-0", Verdict::Beyond),
            ("bytes=4-3", Verdict::Whole),
            ("bytes=0-1,3-4", Verdict::Whole),
            ("bytes=", Verdict::Whole),
            ("bytes=-", Verdict::Whole),
            ("bytes=+1-2", Verdict::Whole),
            ("bytes=a-", Verdict::Whole),
            ("records=1-2", Verdict::Whole),
            ("bytes", Verdict::Whole),
        ] {
            assert_eq!(verdict(&[("Range", range)]), expected, "{range}");
        }
        assert_eq!(verdict(&[("range", "bytes=1-2"), ("Range", "bytes=3-4")]), Verdict::Whole);
    }

    #[test]
    fn nothing_has_no_part() {
        assert_eq!(Range::From(0, u64::MAX).of(0), Verdict::Beyond);
        assert_eq!(Range::Last(0).of(0), Verdict::Beyond);
        assert_eq!(Range::Last(5).of(0), Verdict::Whole);
    }

    /// A tag of another run of the numbers must not pass for this record's.
    #[test]
    fn conditions_compare_number_and_checksum() {
        let (ours, failed, have) =
            ("\"7-00000000000000ab\"", Verdict::Failed, Verdict::NotModified);
        let weak = format!("W/{ours}");
        let list = format!("\"a,b\", W/\"x\" ,,{ours}");
        let other = "\"7-00000000000000ac\", \"8-00000000000000ab\", \"7-AB\", \"7\", \
                     \"07-00000000000000ab\"";
        for (name, value, expected) in [
            ("If-None-Match", ours, have),
            ("If-None-Match", &weak, have),
            ("If-None-Match", &list, have),
            ("If-None-Match", " * ", have),
            ("If-None-Match", other, Verdict::Whole),
            ("If-None-Match", "7-00000000000000ab", Verdict::Whole),
            ("If-None-Match", "", Verdict::Whole),
            ("If-Match", ours, Verdict::Whole),
            ("If-Match", &list, Verdict::Whole),
            ("If-Match", "*", Verdict::Whole),
            ("If-Match", &weak, failed),
            ("If-Match", other, failed),
            ("If-Match", "", failed),
        ] {
            assert_eq!(verdict(&[(name, value)]), expected, "{name}: {value}");
        }
        // Two fields are one list.
        assert_eq!(verdict(&[("if-match", other), ("if-match", ours)]), Verdict::Whole);
        assert_eq!(verdict(&[("if-match", "\"x\""), ("if-none-match", ours)]), failed);
    }

    /// RFC 9110, 13.1.5: parts of two records put together are neither.
    #[test]
    fn a_range_of_another_record_is_none() {
        let ours = "\"7-00000000000000ab\"";
        let weak = format!("W/{ours}");
        let range = ("Range", "bytes=2-4");
        assert_eq!(verdict(&[range, ("If-Range", ours)]), part(2, 4));
        for other in ["\"7-00000000000000ac\"", &weak, "Fri, 20 Nov 2026 14:00:00 GMT", ""] {
            assert_eq!(verdict(&[range, ("If-Range", other)]), Verdict::Whole, "{other}");
        }
        assert_eq!(verdict(&[range, ("If-None-Match", ours)]), Verdict::NotModified);
        assert_eq!(verdict(&[("If-Range", ours)]), Verdict::Whole);
    }
}
