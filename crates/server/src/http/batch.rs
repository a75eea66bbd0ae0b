//! Records of a log, one after the other: what is asked for, and how they are framed.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    LogName, Record,
    reply::{decimal, put},
};
use crate::config::{BATCH_BYTES_MAX, REPLY_BYTES_MAX};

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Sequence number of the first one; `None`: that of the oldest.
    pub from: Option<u64>,
    /// At most so many.
    pub limit: u16,
    /// How they are framed.
    pub form: Form,
}

/// How records are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are, each behind 24 bytes.
    Framed,
    /// Each as a line of JSON, `application/jsonl`.
    JsonLines,
    /// Likewise, by its other name.
    NdJson,
}

/// Bytes before each record.
pub(crate) const FRAME_BYTES: usize = 24;
/// A longer value is not told in a line, but where it is.
pub(crate) const LINE_VALUE_BYTES_MAX: u32 = 64 << 10;
const LIMIT: u16 = 100;
const LIMIT_MAX: u64 = 1000;
/// Bytes of the longest head, and of a line but for the value.
const AROUND_BYTES: u64 = 1 << 10;

const _: () = assert!(
    BATCH_BYTES_MAX + LIMIT_MAX * FRAME_BYTES as u64 + AROUND_BYTES <= REPLY_BYTES_MAX
        && 6 * LINE_VALUE_BYTES_MAX as u64 + AROUND_BYTES <= REPLY_BYTES_MAX
);

impl Batch {
    pub(super) fn new(from: Option<u64>, limit: Option<u16>) -> Self {
        Self { from, limit: limit.unwrap_or(LIMIT), form: Form::Framed }
    }

    /// Returns the limit that `number` is.
    pub(super) fn limit(number: Option<u64>) -> Option<u16> {
        number.filter(|number| *number <= LIMIT_MAX).and_then(|number| u16::try_from(number).ok())
    }
}

impl Form {
    /// What is offered, best first.
    pub(super) const OFFERS: [(&'static str, Self); 3] = [
        (Self::Framed.media_type(), Self::Framed),
        (Self::JsonLines.media_type(), Self::JsonLines),
        (Self::NdJson.media_type(), Self::NdJson),
    ];

    /// Returns its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Framed => "application/vnd.impasto.records",
            Self::JsonLines => "application/jsonl",
            Self::NdJson => "application/x-ndjson",
        }
    }
}

/// Writes what stands before a record.
pub(crate) fn frame(out: &mut Vec<u8>, record: Record) {
    let mut frame = [0; FRAME_BYTES];
    frame[..8].copy_from_slice(&record.seq.to_le_bytes());
    frame[8..12].copy_from_slice(&record.len.to_le_bytes());
    frame[16..].copy_from_slice(&record.checksum.to_le_bytes());
    out.extend_from_slice(&frame);
}

/// Writes a record as a line.
pub(crate) fn line(out: &mut Vec<u8>, record: Record, value: &[u8]) {
    start_line(out, record);
    match std::str::from_utf8(value) {
        Ok(text) => {
            put(out, ",\"text\":\"");
            escape(out, text);
        }
        Err(_) => {
            put(out, ",\"base64\":\"");
            put(out, &STANDARD.encode(value));
        }
    }
    put(out, "\"}\n");
}

/// Writes a line that says where a record is.
pub(crate) fn line_elsewhere(out: &mut Vec<u8>, record: Record, log: &LogName) {
    start_line(out, record);
    put(out, ",\"href\":\"/v1/logs/");
    put(out, log.as_str());
    put(out, "/");
    decimal(out, record.seq);
    put(out, "\"}\n");
}

fn start_line(out: &mut Vec<u8>, record: Record) {
    put(out, "{\"seq\":");
    decimal(out, record.seq);
    put(out, ",\"bytes\":");
    decimal(out, u64::from(record.len));
}

/// Writes `text` as it stands in a string of JSON (RFC 8259, 7).
fn escape(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => put(out, "\\n"),
            b'\r' => put(out, "\\r"),
            b'\t' => put(out, "\\t"),
            0..b' ' => put(out, &format!("\\u{byte:04x}")),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &[u8]) -> String {
        let len = u32::try_from(value.len()).unwrap();
        let mut out = Vec::new();
        line(&mut out, Record { seq: 3, len, checksum: 0 }, value);
        String::from_utf8(out).unwrap()
    }

    /// A line that is no JSON, or two lines, ends a consumer.
    #[test]
    fn every_value_is_one_line() {
        assert_eq!(written(b"hello"), "{\"seq\":3,\"bytes\":5,\"text\":\"hello\"}\n");
        assert_eq!(written(b""), "{\"seq\":3,\"bytes\":0,\"text\":\"\"}\n");
        let text = "a\"b\\c\n\r\t\u{1}\u{1f}\u{7f}\u{e4}/";
        let expected = "a\\\"b\\\\c\\n\\r\\t\\u0001\\u001f\u{7f}\u{e4}/";
        assert_eq!(
            written(text.as_bytes()),
            format!("{{\"seq\":3,\"bytes\":{},\"text\":\"{expected}\"}}\n", text.len())
        );
        assert_eq!(written(b"\xff\x00"), "{\"seq\":3,\"bytes\":2,\"base64\":\"/wA=\"}\n");
    }

    #[test]
    fn a_frame_is_number_length_and_checksum() {
        let mut out = Vec::new();
        frame(&mut out, Record { seq: 0x0102, len: 0x0304, checksum: 0x0506 });
        let mut expected = [0; 24];
        (expected[0], expected[1]) = (2, 1);
        (expected[8], expected[9]) = (4, 3);
        (expected[16], expected[17]) = (6, 5);
        assert_eq!(out, expected);
    }
}
