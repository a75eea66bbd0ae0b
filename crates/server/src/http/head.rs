//! The head of a request: from its bytes to what matters of them.

use std::mem::MaybeUninit;

use httparse::{Header, Request};

use super::{
    Call, Fault, Link, Status,
    route::{decimal, route},
};
use crate::config::{HEAD_BYTES_MAX, HEADERS_MAX};

/// The head of a request whose end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked for, or why that cannot be.
    pub call: Result<Call, Fault>,
    /// `Content-Length`, if there is one.
    pub length: Option<u64>,
    /// What becomes of the connection afterwards.
    pub link: Link,
    /// True if the answer has no body (HEAD).
    pub bodyless: bool,
    /// True if the peer waits for `100 Continue`.
    pub expects_continue: bool,
    /// Bytes of the head.
    pub bytes: usize,
}

const MALFORMED: Fault = Fault::new(Status::BadRequest, "this is no HTTP/1.1 request");
const VERSION: Fault = Fault::new(Status::VersionNotSupported, "speak HTTP/1.1 or HTTP/1.0");
const TOO_LONG: Fault =
    Fault::new(Status::HeadTooLong, "the head of a request is at most 16 KiB and 100 fields");
const LENGTHS: Fault =
    Fault::new(Status::BadRequest, "Content-Length is one decimal number, said once");
const BOTH: Fault =
    Fault::new(Status::BadRequest, "Content-Length and Transfer-Encoding exclude each other");
const CHUNKED: Fault =
    Fault::new(Status::LengthRequired, "a Content-Length is required: chunks are not taken");
const EXPECTATION: Fault =
    Fault::new(Status::ExpectationFailed, "the only expectation met here is 100-continue");

/// Parses the head that `bytes` start with. `None`: its end is not there yet.
///
/// # Errors
/// What keeps the end of this request from being known: the connection cannot go on after the
/// answer. Whatever is wrong with a request whose end is known stands in [`Head::call`].
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => understand(&request, length).map(Some),
        Ok(httparse::Status::Partial) if bytes.len() == HEAD_BYTES_MAX => Err(TOO_LONG),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(TOO_LONG),
        Err(httparse::Error::Version) => Err(VERSION),
        Err(_) => Err(MALFORMED),
    }
}

fn understand(request: &Request<'_, '_>, bytes: usize) -> Result<Head, Fault> {
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(MALFORMED);
    };
    let fields = Fields::read(request.headers)?;
    if fields.encoded {
        return Err(if fields.length.is_some() { BOTH } else { CHUNKED });
    }
    let link = match version {
        _ if fields.close => Link::Close,
        0 if fields.keep_alive => Link::StayOld,
        0 => Link::Close,
        _ => Link::Stay,
    };
    let mut call = route(method, target);
    if fields.expects_other {
        call = Err(EXPECTATION);
    }
    Ok(Head {
        call,
        length: fields.length,
        link,
        bodyless: method == "HEAD",
        // A peer that speaks HTTP/1.0 would take the interim answer for the answer.
        expects_continue: fields.expects_continue && version > 0,
        bytes,
    })
}

/// The fields that matter here.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    encoded: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    expects_other: bool,
}

impl Fields {
    fn read(headers: &[Header<'_>]) -> Result<Self, Fault> {
        let mut fields = Self::default();
        for header in headers {
            fields.add(header)?;
        }
        Ok(fields)
    }

    fn add(&mut self, header: &Header<'_>) -> Result<(), Fault> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = header.value.trim_ascii();
        if is("content-length") {
            let length = std::str::from_utf8(value).ok().filter(|text| !text.is_empty());
            let length = length.and_then(decimal).ok_or(LENGTHS)?;
            // Two that differ are how one request is smuggled inside another.
            if self.length.replace(length).is_some_and(|before| before != length) {
                return Err(LENGTHS);
            }
        } else if is("transfer-encoding") {
            self.encoded = true;
        } else if is("connection") {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if is("expect") {
            let known = value.eq_ignore_ascii_case(b"100-continue");
            self.expects_continue |= known;
            self.expects_other |= !known;
        }
        Ok(())
    }
}
