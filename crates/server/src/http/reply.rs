//! Answers: heads and small bodies, appended to the output of a connection.

use super::{Extra, Fault, Form, LogName, Part, Record, Status, digest::Algorithm};

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It stays, as is the rule in HTTP/1.1.
    Stay,
    /// It stays, which a peer that speaks HTTP/1.0 has to be told.
    StayOld,
    /// It is closed.
    Close,
}

/// The interim answer that makes a peer send its body.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes the answer to an append.
pub(crate) fn created(out: &mut Vec<u8>, log: &LogName, record: Record, link: Link) {
    start(out, Status::Created, link);
    put(out, "Location: /v1/logs/");
    put(out, log.as_str());
    put(out, "/");
    decimal(out, record.seq);
    put(out, "\r\n");
    etag(out, record);
    end(out, 0);
}

/// Writes the head of a record, whose bytes follow: all of them, or the part.
pub(crate) fn record(
    out: &mut Vec<u8>,
    record: Record,
    part: Option<Part>,
    digest: Option<(Algorithm, &str)>,
    link: Link,
) {
    start(out, if part.is_some() { Status::PartialContent } else { Status::Ok }, link);
    put(out, "Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n");
    etag(out, record);
    if let Some(part) = part {
        put(out, "Content-Range: bytes ");
        decimal(out, u64::from(part.first));
        put(out, "-");
        decimal(out, u64::from(part.last));
        put(out, "/");
        decimal(out, u64::from(record.len));
        put(out, "\r\n");
    }
    if let Some((algorithm, value)) = digest {
        put(out, "Content-Digest: ");
        put(out, algorithm.name());
        put(out, "=:");
        put(out, value);
        put(out, ":\r\n");
    }
    end(out, u64::from(part.map_or(record.len, Part::bytes)));
}

/// Writes the answer to who has the record already.
pub(crate) fn not_modified(out: &mut Vec<u8>, record: Record, link: Link) {
    start(out, Status::NotModified, link);
    etag(out, record);
    put(out, "\r\n");
}

/// Writes the head of records in a row, whose `len` bytes follow; the next ones start at `next`.
pub(crate) fn batch(out: &mut Vec<u8>, form: Form, next: u64, len: u64, link: Link) {
    start(out, Status::Ok, link);
    field(out, "Content-Type", form.media_type());
    put(out, "Vary: Accept\r\nImpasto-Next: ");
    decimal(out, next);
    put(out, "\r\n");
    end(out, len);
}

/// Writes what is running.
pub(crate) fn version(out: &mut Vec<u8>, link: Link, bodyless: bool) {
    document(out, Status::Ok, JSON, link, bodyless, |out| {
        put(out, "{\"name\":\"impasto\",\"version\":\"");
        put(out, env!("CARGO_PKG_VERSION"));
        put(out, "\",\"format\":");
        decimal(out, FORMAT);
        put(out, "}\n");
    });
}

/// Writes what a target allows; to a page of another origin that may use it, in the words of the
/// Fetch standard, too.
pub(crate) fn options(out: &mut Vec<u8>, allow: &str, to_page: bool, link: Link) {
    start(out, Status::NoContent, link);
    field(out, "Allow", allow);
    if to_page {
        field(out, "Access-Control-Allow-Methods", allow);
        field(out, "Access-Control-Allow-Headers", SENT_BY_PAGES);
        field(out, "Access-Control-Max-Age", "600");
    }
    put(out, "\r\n");
}

/// Adds to the answer that begins at `start` that pages of `origin` may read it.
pub(crate) fn allow_origin(out: &mut Vec<u8>, start: usize, origin: &str) {
    let line = out[start..].windows(2).position(|end| end == b"\r\n");
    let at = start + line.expect("an answer begins with a line") + 2;
    let behind = out.len() - at;
    field(out, "Access-Control-Allow-Origin", origin);
    field(out, "Access-Control-Expose-Headers", READ_BY_PAGES);
    if origin != "*" {
        field(out, "Vary", "Origin");
    }
    out[at..].rotate_left(behind);
}

const SENT_BY_PAGES: &str = "Accept, Content-Digest, Content-Type, If-Match, If-None-Match, \
                             If-Range, Range, Want-Content-Digest";
const READ_BY_PAGES: &str = "Accept-Ranges, Allow, Content-Digest, Content-Range, ETag, \
                             Impasto-Next, Location, Want-Content-Digest";

/// Writes the head of a JSON document, whose `len` bytes follow.
pub(crate) fn json(out: &mut Vec<u8>, len: u64, link: Link) {
    start(out, Status::Ok, link);
    field(out, "Content-Type", JSON);
    end(out, len);
}

/// Writes a JSON document of numbers, with its head; only that if `bodyless`.
pub(crate) fn numbers(out: &mut Vec<u8>, fields: &[(&str, u64)], link: Link, bodyless: bool) {
    document(out, Status::Ok, JSON, link, bodyless, |out| {
        for (index, (name, value)) in fields.iter().enumerate() {
            put(out, if index == 0 { "{\"" } else { ",\"" });
            put(out, name);
            put(out, "\":");
            decimal(out, *value);
        }
        put(out, "}\n");
    });
}

/// Writes an answer of one line of text; only its head if `bodyless`.
pub(crate) fn text(out: &mut Vec<u8>, status: Status, text: &str, link: Link, bodyless: bool) {
    document(out, status, "text/plain; charset=utf-8", link, bodyless, |out| {
        put(out, text);
        put(out, "\n");
    });
}

/// Writes what `body` writes behind its head; only that if `bodyless`.
pub(crate) fn document(
    out: &mut Vec<u8>,
    status: Status,
    media_type: &str,
    link: Link,
    bodyless: bool,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let head = |out: &mut Vec<u8>, len| {
        start(out, status, link);
        field(out, "Content-Type", media_type);
        end(out, len);
    };
    with_body(out, bodyless, head, body);
}

/// Writes what is wrong (RFC 9457); only the head if `bodyless`.
pub(crate) fn problem(out: &mut Vec<u8>, fault: &Fault, link: Link, bodyless: bool) {
    let head = |out: &mut Vec<u8>, len| {
        start(out, fault.status, link);
        match fault.extra {
            Extra::Allow(methods) => field(out, "Allow", methods),
            Extra::Algorithms => field(out, "Want-Content-Digest", "sha-256=10, sha-512=10"),
            Extra::Length(len) => {
                put(out, "Content-Range: bytes */");
                decimal(out, u64::from(len));
                put(out, "\r\n");
            }
            Extra::None | Extra::First(_) | Extra::Next(_) => {}
        }
        field(out, "Content-Type", "application/problem+json");
        end(out, len);
    };
    with_body(out, bodyless, head, |out| fault.write(out));
}

/// Writes what `body` writes behind its head, which is told the length; only the head if
/// `bodyless`.
fn with_body(
    out: &mut Vec<u8>,
    bodyless: bool,
    head: impl FnOnce(&mut Vec<u8>, u64),
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    body(out);
    let len = out.len() - start;
    let sent = if bodyless { 0 } else { len };
    out.truncate(start + sent);
    head(out, len as u64);
    // A short document is moved faster than measured.
    out[start..].rotate_left(sent);
}

/// Writes `value` in decimal.
pub(crate) fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut buffer = [0; 20];
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = DIGITS[usize::try_from(value % 10).expect("a digit")];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[at..]);
}

fn start(out: &mut Vec<u8>, status: Status, link: Link) {
    put(out, "HTTP/1.1 ");
    put(out, status.line());
    put(out, "\r\n");
    match link {
        Link::Stay => {}
        Link::StayOld => put(out, "Connection: keep-alive\r\n"),
        Link::Close => put(out, "Connection: close\r\n"),
    }
}

fn etag(out: &mut Vec<u8>, Record { seq, checksum, .. }: Record) {
    put(out, "ETag: \"");
    decimal(out, seq);
    put(out, "-");
    let mut hex = [0; 16];
    for (digit, byte) in hex.chunks_exact_mut(2).zip((0..8).rev().map(|n| checksum >> (8 * n))) {
        digit[0] = DIGITS[usize::try_from(byte >> 4 & 15).expect("a digit")];
        digit[1] = DIGITS[usize::try_from(byte & 15).expect("a digit")];
    }
    out.extend_from_slice(&hex);
    put(out, "\"\r\n");
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    put(out, name);
    put(out, ": ");
    put(out, value);
    put(out, "\r\n");
}

fn end(out: &mut Vec<u8>, len: u64) {
    put(out, "Content-Length: ");
    decimal(out, len);
    put(out, "\r\n\r\n");
}

pub(crate) fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// The version of docs/format.md.
const FORMAT: u64 = 1;
const JSON: &str = "application/json";
const DIGITS: &[u8; 16] = b"0123456789abcdef";
