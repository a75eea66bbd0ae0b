//! Answers: heads and small bodies, appended to the output of a connection.

use impasto_store::{LogInfo, Refusal};

use super::{Fault, LogName};

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 9110; `line` has the numbers")]
pub enum Status {
    Ok,
    Created,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Gone,
    LengthRequired,
    BodyTooLong,
    ExpectationFailed,
    HeadTooLong,
    InternalError,
    NotImplemented,
    Unavailable,
    VersionNotSupported,
    NoSpace,
}

impl Status {
    /// Returns the status line without the version: number and reason.
    pub const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::Created => "201 Created",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::Gone => "410 Gone",
            Self::LengthRequired => "411 Length Required",
            Self::BodyTooLong => "413 Content Too Large",
            Self::ExpectationFailed => "417 Expectation Failed",
            Self::HeadTooLong => "431 Request Header Fields Too Large",
            Self::InternalError => "500 Internal Server Error",
            Self::NotImplemented => "501 Not Implemented",
            Self::Unavailable => "503 Service Unavailable",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
            Self::NoSpace => "507 Insufficient Storage",
        }
    }
}

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
pub(crate) fn created(out: &mut Vec<u8>, log: &LogName, seq: u64, link: Link) {
    start(out, Status::Created, link);
    put(out, "Location: /v1/logs/");
    put(out, log.as_str());
    put(out, "/");
    decimal(out, seq);
    put(out, "\r\n");
    etag(out, seq);
    end(out, 0);
}

/// Writes the head of a record, whose `len` bytes follow.
pub(crate) fn record(out: &mut Vec<u8>, seq: u64, len: u32, link: Link) {
    start(out, Status::Ok, link);
    put(out, "Content-Type: application/octet-stream\r\n");
    etag(out, seq);
    end(out, u64::from(len));
}

/// Writes the head of a JSON document, whose `len` bytes follow.
pub(crate) fn json(out: &mut Vec<u8>, len: u64, link: Link) {
    start(out, Status::Ok, link);
    put(out, "Content-Type: application/json\r\n");
    end(out, len);
}

/// Writes a log in numbers; only the head if `bodyless`.
pub(crate) fn log(out: &mut Vec<u8>, log: &LogInfo, link: Link, bodyless: bool) {
    let fields =
        [("first", log.first), ("next", log.next), ("records", log.records), ("bytes", log.bytes)];
    let mut len = 2; // the closing brace and the newline
    for (name, value) in fields {
        len += name.len() as u64 + 4 + digits(value); // brace or comma, two quotes, colon
    }
    json(out, len, link);
    if bodyless {
        return;
    }
    for (index, (name, value)) in fields.into_iter().enumerate() {
        put(out, if index == 0 { "{\"" } else { ",\"" });
        put(out, name);
        put(out, "\":");
        decimal(out, value);
    }
    put(out, "}\n");
}

/// Writes an answer of one line of text; only its head if `bodyless`.
pub(crate) fn text(out: &mut Vec<u8>, status: Status, text: &str, link: Link, bodyless: bool) {
    start(out, status, link);
    end_text(out, text, bodyless);
}

/// Writes 405, which has to say what is allowed.
pub(crate) fn not_allowed(out: &mut Vec<u8>, allow: &str, text: &str, link: Link, bodyless: bool) {
    start(out, Status::MethodNotAllowed, link);
    put(out, "Allow: ");
    put(out, allow);
    put(out, "\r\n");
    end_text(out, text, bodyless);
}

/// Writes the answer to a request whose commit was lost (D7).
pub(crate) fn lost(out: &mut Vec<u8>) {
    let what = "the medium has failed: this request may have taken effect or not, and the region \
                is read-only until a restart";
    text(out, Status::Unavailable, what, Link::Close, false);
}

/// Returns what a refusal of the store is in HTTP.
pub(crate) fn fault(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::NoSuchLog => Fault::new(Status::NotFound, "there is no log of that name"),
        Refusal::Trimmed { .. } => Fault::new(
            Status::Gone,
            "the record was dropped: GET /v1/logs/{log} says which is the first",
        ),
        Refusal::Future { .. } => Fault::new(
            Status::NotFound,
            "the record is not there yet: GET /v1/logs/{log} says which is the next",
        ),
        Refusal::NoSpace => Fault::new(
            Status::NoSpace,
            "the region is full: trim logs (DELETE /v1/logs/{log}?before=SEQ) to make room, those \
             with the oldest records above all: they keep the space of what came later",
        ),
        Refusal::NoSpaceToTrim => Fault::new(
            Status::NoSpace,
            "the region is full, and so is what is kept for trims that leave records: trim all \
             records of a log (DELETE /v1/logs/{log}?before=SEQ with its `next`), which is always \
             taken, or those of other logs that are the oldest",
        ),
        Refusal::TooManyLogs => {
            Fault::new(Status::NoSpace, "there are 65536 logs: append to one of them")
        }
        Refusal::ReadOnly => Fault::new(
            Status::Unavailable,
            "the medium has failed: the region is read-only until a restart",
        ),
        _ => Fault::new(Status::InternalError, "refused for a reason that HTTP has no word for"),
    }
}

/// Returns the number of decimal digits of `value`.
pub(crate) fn digits(value: u64) -> u64 {
    value.checked_ilog10().map_or(1, |log| u64::from(log) + 1)
}

/// Writes `value` in decimal.
pub(crate) fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut buffer = [0; 20];
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b"0123456789"[usize::try_from(value % 10).expect("a digit")];
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

fn etag(out: &mut Vec<u8>, seq: u64) {
    put(out, "ETag: \"");
    decimal(out, seq);
    put(out, "\"\r\n");
}

fn end(out: &mut Vec<u8>, len: u64) {
    put(out, "Content-Length: ");
    decimal(out, len);
    put(out, "\r\n\r\n");
}

fn end_text(out: &mut Vec<u8>, text: &str, bodyless: bool) {
    put(out, "Content-Type: text/plain; charset=utf-8\r\n");
    end(out, text.len() as u64 + 1);
    if !bodyless {
        put(out, text);
        put(out, "\n");
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}
