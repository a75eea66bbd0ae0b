//! The head of a request: from its bytes to what matters of them.

use std::mem::MaybeUninit;

use httparse::{Header, Request};

use super::{
    Call, Expected, Fault, Form, Link, Status, Terms,
    accept::{NOT_ACCEPTABLE, choose},
    route::{absolute, decimal, route},
};
use crate::config::{HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};

/// The head of a request whose end is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked for, or why that cannot be.
    pub call: Result<Call, Fault>,
    /// What is said beyond that; seldom anything.
    pub terms: Option<Box<Terms>>,
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
const TARGET_TOO_LONG: Fault =
    Fault::new(Status::TargetTooLong, "the target of a request is at most 8 KiB");
const HOST: Fault =
    Fault::new(Status::BadRequest, "Host is said once, in HTTP/1.1 always: a name and a port");
const AUTHORITY: Fault =
    Fault::new(Status::BadRequest, "a target behind http:// has a host, maybe a port, and a path");
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
const CONDITION: Fault =
    Fault::new(Status::PreconditionFailed, "only records have an ETag, and conditions with it");

/// Parses the head that `bytes` start with. `None`: its end is not there yet.
///
/// # Errors
/// What keeps the end of this request from being known: the connection cannot go on after the
/// answer. Whatever is wrong with a request whose end is known stands in [`Head::call`].
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut headers);
    if request.path.map_or(bytes.len(), str::len) > TARGET_BYTES_MAX && is_target(&request, bytes) {
        return Err(TARGET_TOO_LONG);
    }
    match parsed {
        Ok(httparse::Status::Complete(length)) => {
            // The request line, the fields, the empty line.
            let lines = request.headers.len() + 2;
            if returns(&bytes[..length]) != lines {
                return Err(MALFORMED);
            }
            understand(&request, length).map(Some)
        }
        Ok(httparse::Status::Partial) if bytes.len() == HEAD_BYTES_MAX => Err(TOO_LONG),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(TOO_LONG),
        Err(httparse::Error::Version) => Err(VERSION),
        Err(_) => Err(MALFORMED),
    }
}

/// Returns true if what is too long for a target is one: known, or behind a method.
fn is_target(request: &Request<'_, '_>, bytes: &[u8]) -> bool {
    const METHOD_BYTES_MAX: usize = 32;
    request.path.is_some()
        || request.method.is_some_and(|method| bytes.len() > method.len() + 1 + TARGET_BYTES_MAX)
        || bytes[..METHOD_BYTES_MAX].contains(&b' ')
            && bytes.len() > METHOD_BYTES_MAX + TARGET_BYTES_MAX
}

/// Returns the number of CRs, each of which stands before an LF: fewer than lines, if one of these
/// ends with LF alone. RFC 9112, 2.2, lets that pass; but a proxy that does not take it for an end
/// reads other fields than we do.
fn returns(head: &[u8]) -> usize {
    // Counted in bytes, 16 are compared at once.
    let count = |part: &[u8]| part.iter().map(|byte| u8::from(*byte == b'\r')).sum::<u8>();
    head.chunks(usize::from(u8::MAX)).map(|part| usize::from(count(part))).sum()
}

fn understand(request: &Request<'_, '_>, bytes: usize) -> Result<Head, Fault> {
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(MALFORMED);
    };
    let mut fields = Fields::read(request.headers)?;
    let framing = fields.framing(version)?;
    if version > 0 && fields.host.is_none() {
        return Err(HOST);
    }
    let link = match version {
        _ if fields.close => Link::Close,
        0 if fields.keep_alive => Link::StayOld,
        0 => Link::Close,
        _ => Link::Stay,
    };
    let target = match absolute(target) {
        None => target,
        Some((host, path)) if is_host(host.as_bytes()) && !host.is_empty() => {
            // RFC 9112, 3.2.2: it stands for `Host`, whatever that says.
            fields.host = Some(host.as_bytes());
            path
        }
        Some(_) => return Err(AUTHORITY),
    };
    let mut call = route(method, target);
    let mut terms = None;
    if fields.has_terms {
        let said = read_terms(&mut call, &fields, request.headers);
        terms = (!said.are_none()).then(|| Box::new(said));
    }
    if let (Ok(Call::Batch(_, batch)), true) = (&mut call, fields.accepts) {
        match choose(values(request.headers, "accept"), &Form::OFFERS) {
            Some(form) => batch.form = form,
            None => call = Err(NOT_ACCEPTABLE),
        }
    }
    if fields.expects_other {
        call = Err(EXPECTATION);
    }
    Ok(Head {
        call,
        terms,
        framing,
        link,
        bodyless: method == "HEAD",
        // A peer that speaks HTTP/1.0 would take the interim answer for the answer.
        expects_continue: fields.expects_continue && version > 0,
        bytes,
    })
}

/// Reads what is said beyond the target, as far as it matters for `call`.
fn read_terms(
    call: &mut Result<Call, Fault>,
    fields: &Fields<'_>,
    headers: &[Header<'_>],
) -> Terms {
    let mut terms = Terms::default();
    terms.read(headers);
    match call {
        Ok(Call::Read(..)) => {}
        Ok(Call::Append(_) | Call::Trim(..)) if terms.have_conditions() => *call = Err(CONDITION),
        Ok(Call::Append(_)) if fields.has_digest => {
            match Expected::read(values(headers, "content-digest")) {
                Ok(expected) => terms = Terms::of_content(expected),
                Err(fault) => *call = Err(fault),
            }
        }
        _ => terms = Terms::default(),
    }
    terms.origin = fields.foreign_origin().map(|origin| String::from_utf8_lossy(origin).into());
    terms
}

/// Returns the values of all fields of a name.
fn values<'a>(headers: &'a [Header<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value)
}

/// The fields that matter here.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    origin: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    expects_other: bool,
    /// There is an `Accept`.
    accepts: bool,
    /// There is a `Content-Digest`.
    has_digest: bool,
    /// There is one of those that few requests have.
    has_terms: bool,
}

impl<'a> Fields<'a> {
    fn read(headers: &[Header<'a>]) -> Result<Self, Fault> {
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

    fn add(&mut self, header: &Header<'a>) -> Result<(), Fault> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = header.value.trim_ascii();
        // Most fields are told apart by their length.
        match header.name.len() {
            4 if is("host") => self.add_host(value)?,
            5 if is("range") => self.has_terms = true,
            6 if is("accept") => self.accepts = true,
            6 if is("expect") => {
                let known = value.eq_ignore_ascii_case(b"100-continue");
                self.expects_continue |= known;
                self.expects_other |= !known;
            }
            6 if is("origin") => self.add_origin(value),
            8 if is("if-match") || is("if-range") => self.has_terms = true,
            10 if is("connection") => self.add_options(value),
            13 if is("if-none-match") => self.has_terms = true,
            14 if is("content-length") => self.add_length(value)?,
            14 if is("content-digest") => (self.has_digest, self.has_terms) = (true, true),
            17 if is("transfer-encoding") => {
                // Two fields are one list: `chunked` would be applied twice (RFC 9112, 6.1).
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(ENCODING);
                }
                only_chunked(value)?;
            }
            19 if is("want-content-digest") => self.has_terms = true,
            _ => {}
        }
        Ok(())
    }

    fn add_host(&mut self, value: &'a [u8]) -> Result<(), Fault> {
        let is_second = self.host.replace(value).is_some();
        if is_second || !is_host(value) { Err(HOST) } else { Ok(()) }
    }

    fn add_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let length = std::str::from_utf8(value).ok().filter(|text| !text.is_empty());
        let length = length.and_then(decimal).ok_or(LENGTHS)?;
        // Two are how one request is smuggled inside another.
        if self.length.replace(length).is_some() {
            return Err(LENGTHS);
        }
        Ok(())
    }

    fn add_options(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn add_origin(&mut self, value: &'a [u8]) {
        self.has_terms = true;
        // Two are none that any browser sends.
        self.origin = Some(if self.origin.is_some() { b"null" } else { value });
    }

    /// Returns the origin of the page that has sent the request, if it is not ours.
    fn foreign_origin(&self) -> Option<&'a [u8]> {
        self.origin.filter(|origin| {
            let schemes = [&b"http://"[..], b"https://"].into_iter();
            let host = schemes.filter_map(|scheme| origin.strip_prefix(scheme)).next();
            host.is_none_or(|host| !self.host.unwrap_or_default().eq_ignore_ascii_case(host))
        })
    }
}

/// Returns true for what consists of the bytes of a host with a port.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| HOST_BYTES[usize::from(*byte)])
}

/// Which bytes [`is_host`] takes.
const HOST_BYTES: [bool; 256] = {
    let (mut bytes, mut byte) = ([false; 256], 0);
    while byte < 128 {
        bytes[byte as usize] = is_host_byte(byte);
        byte += 1;
    }
    bytes
};

/// Returns true for what may stand in a host with a port (RFC 3986, 3.2.2 and 3.2.3).
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'['
                | b']'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
        )
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
