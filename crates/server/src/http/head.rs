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
    /// How the end of the body is found.
    pub framing: Framing,
    /// What becomes of the connection afterwards.
    pub link: Link,
    /// True if the answer has no body (HEAD).
    pub bodyless: bool,
    /// True if the peer waits for `100 Continue`.
    pub expects_continue: bool,
    /// Bytes of the head.
    pub bytes: usize,
}

/// How the end of a request's body is found (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Neither field is there: no body follows.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`: see [`Chunks`](super::Chunks).
    Chunked,
}

const MALFORMED: Fault = Fault::new(Status::BadRequest, "this is no HTTP/1.1 request");
const VERSION: Fault = Fault::new(Status::VersionNotSupported, "speak HTTP/1.1 or HTTP/1.0");
const TOO_LONG: Fault =
    Fault::new(Status::HeadTooLong, "the head of a request is at most 16 KiB and 100 fields");
const LENGTHS: Fault =
    Fault::new(Status::BadRequest, "Content-Length is one decimal number, said once");
const BOTH: Fault =
    Fault::new(Status::BadRequest, "Content-Length and Transfer-Encoding exclude each other");
const ENCODING: Fault = Fault::new(
    Status::BadRequest,
    "Transfer-Encoding is `chunked` and nothing else, said once, in HTTP/1.1",
);
const CODING: Fault =
    Fault::new(Status::NotImplemented, "the only transfer coding taken here is `chunked`");
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
    let framing = fields.framing(version)?;
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
        framing,
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
    chunked: bool,
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

    /// RFC 9112, 6.1 and 6.3: where two readers could find two ends, a request can be smuggled
    /// inside another. So what is merely discouraged there is refused here.
    const fn framing(&self, version: u8) -> Result<Framing, Fault> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(BOTH),
            // A reader of that age takes the chunks for the next request.
            (true, None) if version == 0 => Err(ENCODING),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::None),
        }
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
            // Two fields are one list: `chunked` would be applied twice (RFC 9112, 6.1).
            if std::mem::replace(&mut self.chunked, true) {
                return Err(ENCODING);
            }
            only_chunked(value)?;
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

/// Refuses every list of transfer codings but `chunked` alone, which has no parameters (RFC 9112,
/// 7.1).
fn only_chunked(value: &[u8]) -> Result<(), Fault> {
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if is_chunked(value) {
        return Ok(());
    }
    // Only if the last one is `chunked` the end could be known to someone (RFC 9112, 6.3): then it
    // is the codings before that are not known here.
    let mut codings = value.rsplit(|byte| *byte == b',');
    let ends = codings.next().is_some_and(is_chunked);
    let unknown =
        ends && codings.all(|coding| !coding.trim_ascii().is_empty() && !is_chunked(coding));
    Err(if unknown { CODING } else { ENCODING })
}
