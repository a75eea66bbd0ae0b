//! Requests and replies, in the form of Impasto's.

use std::mem::MaybeUninit;

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Its own length, and that of the body.
    pub(super) len: usize,
    pub(super) body_len: usize,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parsed<'a> {
    Head(Head<'a>),
    /// A part of a head.
    Part,
    /// Nothing that can be answered.
    Bad,
}

/// Parses the head of a request.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Parsed::Part,
        Err(_) => return Parsed::Bad,
    };
    let mut body_len = 0;
    for header in &*request.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let Some(found) = number(header.value).filter(|len| *len <= BODY_MAX) else {
                return Parsed::Bad;
            };
            body_len = found;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Parsed::Bad;
        }
    }
    match (request.method, request.path) {
        (Some(method), Some(path)) => Parsed::Head(Head { method, path, len, body_len }),
        _ => Parsed::Bad,
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Writes the reply to an append.
pub(super) fn created(out: &mut Vec<u8>, path: &str, seq: u64, checksum: u64) {
    put(out, "HTTP/1.1 201 Created\r\nLocation: ");
    put(out, path);
    put(out, "/");
    decimal(out, seq);
    put(out, "\r\n");
    etag(out, seq, checksum);
    put(out, "Content-Length: 0\r\n\r\n");
}

/// Writes the head of the reply to a read, whose `len` bytes follow.
pub(super) fn found(out: &mut Vec<u8>, seq: u64, checksum: u64, len: u64) {
    put(out, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n");
    put(out, "Accept-Ranges: bytes\r\n");
    etag(out, seq, checksum);
    put(out, "Content-Length: ");
    decimal(out, len);
    put(out, "\r\n\r\n");
}

/// Writes the reply to a trim.
pub(super) fn trimmed(out: &mut Vec<u8>, first: u64, next: u64, bytes: u64) {
    let records = next - first;
    let json =
        format!("{{\"first\":{first},\"next\":{next},\"records\":{records},\"bytes\":{bytes}}}\n");
    put(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ");
    decimal(out, json.len() as u64);
    put(out, "\r\n\r\n");
    put(out, &json);
}

/// Writes that there is no such thing.
pub(super) fn missing(out: &mut Vec<u8>) {
    put(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

fn etag(out: &mut Vec<u8>, seq: u64, checksum: u64) {
    put(out, "ETag: \"");
    decimal(out, seq);
    put(out, "-");
    let mut hex = [0; 16];
    for (digits, byte) in hex.chunks_exact_mut(2).zip(checksum.to_le_bytes().iter().rev()) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    out.extend_from_slice(&hex);
    put(out, "\"\r\n");
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = DIGITS[usize::try_from(value % 10).expect("a digit")];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Longest body: more than any workload has.
pub(super) const BODY_MAX: usize = 2 << 20;
const HEADERS_MAX: usize = 32;
const DIGITS: &[u8; 16] = b"0123456789abcdef";
