//! HTTP/1.1 as a client that checks: prepared requests, and replies parsed from any pieces.
//!
//! Nothing here is Impasto's own, so that any HTTP server can be measured.

use std::{mem, net::SocketAddr, sync::Arc};

/// A request in bytes, and what its reply has to be.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request, repeated: a burst of several is one write.
    stream: Arc<[u8]>,
    len: usize,
    body_bytes: u64,
    expected: Expected,
}

impl Request {
    /// Returns a request with a body, which may be empty.
    pub fn new(method: &str, host: SocketAddr, path: &str, body: &[u8]) -> Self {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = [head.as_bytes(), body].concat();
        let expected = Expected { status: 200, body: None };
        Self { len: stream.len(), stream: stream.into(), body_bytes: body.len() as u64, expected }
    }

    /// Sets the status that the reply has to have; without this it is 200.
    #[must_use]
    pub fn expect_status(mut self, status: u16) -> Self {
        self.expected.status = status;
        self
    }

    /// Sets the body that the reply has to have; without this any will do.
    #[must_use]
    pub fn expect_body(mut self, body: Vec<u8>) -> Self {
        self.expected.body = Some(body);
        self
    }

    /// Repeats the request in memory, so that up to `times` of them are one write.
    #[must_use]
    pub fn repeated(mut self, times: usize) -> Self {
        let times = times.min(REPEATED_BYTES_MAX / self.len).max(1);
        self.stream = self.stream[..self.len].repeat(times).into();
        self
    }

    /// Returns the length of one request.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// Returns what comes next in an endless row of this request, `at` bytes inside of one.
    pub fn from(&self, at: usize) -> &[u8] {
        &self.stream[at..]
    }

    /// Returns what a reply has to be.
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Returns how many bytes of payload one exchange moves: of the request, or of its reply.
    pub fn payload_bytes(&self) -> u64 {
        self.body_bytes + self.expected.body.as_ref().map_or(0, |body| body.len() as u64)
    }
}

/// What a reply has to be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its status.
    pub status: u16,
    /// Its body; `None` if any will do.
    pub body: Option<Vec<u8>>,
}

/// A reply that has come in as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// True if its body is the expected one.
    pub body_matches: bool,
    /// True if the server will close the connection behind it.
    pub closes: bool,
}

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// No status line of HTTP/1.
    #[error("it does not start with a status line of HTTP/1")]
    StatusLine,
    /// No one `Content-Length`.
    #[error("it has no Content-Length, or several that differ, or one that is no number")]
    Length,
    /// A head without an end.
    #[error("its head is over 16 KiB")]
    HeadTooLong,
}

/// The replies of one connection, while they come in.
#[derive(Debug)]
pub struct Replies {
    state: State,
    /// The beginning of a head that was cut.
    cut: Vec<u8>,
}

impl Default for Replies {
    fn default() -> Self {
        Self { state: State::Head, cut: Vec::with_capacity(HEAD_BYTES_USUAL) }
    }
}

impl Replies {
    /// Takes bytes from the front of `bytes` until a reply is complete. `None`: all were taken.
    ///
    /// # Errors
    /// What makes the rest of the connection worthless.
    pub fn next(
        &mut self,
        bytes: &mut &[u8],
        expected: &Expected,
    ) -> Result<Option<Reply>, Malformed> {
        loop {
            match &mut self.state {
                State::Head => {
                    let Some(head) = self.take_head(bytes)? else { return Ok(None) };
                    // An interim answer: the real one follows.
                    if head.status >= 200 {
                        self.state = State::Body(Body::new(head, expected));
                    }
                }
                State::Body(body) => {
                    body.take(bytes, expected);
                    if body.left > 0 {
                        return Ok(None);
                    }
                    let reply = body.reply;
                    self.state = State::Head;
                    return Ok(Some(reply));
                }
            }
        }
    }

    fn take_head(&mut self, bytes: &mut &[u8]) -> Result<Option<Head>, Malformed> {
        if self.cut.is_empty() {
            if let Some(head) = Head::parse(bytes)? {
                *bytes = &bytes[head.len..];
                return Ok(Some(head));
            }
            self.cut.extend_from_slice(mem::take(bytes));
        } else {
            let before = self.cut.len();
            let room = bytes.len().min(HEAD_BYTES_MAX + 1);
            self.cut.extend_from_slice(&bytes[..room]);
            if let Some(head) = Head::parse(&self.cut)? {
                *bytes = &bytes[head.len - before..];
                self.cut.clear();
                return Ok(Some(head));
            }
            *bytes = &[];
        }
        if self.cut.len() > HEAD_BYTES_MAX { Err(Malformed::HeadTooLong) } else { Ok(None) }
    }
}

#[derive(Debug)]
enum State {
    Head,
    Body(Body),
}

/// A body while it comes in: compared as it passes, and not kept.
#[derive(Debug)]
struct Body {
    reply: Reply,
    at: usize,
    left: u64,
}

impl Body {
    fn new(head: Head, expected: &Expected) -> Self {
        let right_length =
            expected.body.as_ref().is_none_or(|body| body.len() as u64 == head.body_bytes);
        let reply = Reply { status: head.status, body_matches: right_length, closes: head.closes };
        Self { reply, at: 0, left: head.body_bytes }
    }

    fn take(&mut self, bytes: &mut &[u8], expected: &Expected) {
        let here = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (now, rest) = bytes.split_at(here);
        if let Some(body) = &expected.body
            && self.reply.body_matches
        {
            self.reply.body_matches = body[self.at..self.at + here] == *now;
        }
        self.at += here;
        self.left -= here as u64;
        *bytes = rest;
    }
}

#[derive(Clone, Copy, Debug)]
struct Head {
    len: usize,
    status: u16,
    body_bytes: u64,
    closes: bool,
}

impl Head {
    /// Parses the head that `bytes` start with. `None`: its end is not there.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        let Some(end) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
            let starts = bytes.iter().zip(b"HTTP/1.").all(|(found, wanted)| found == wanted);
            return if starts { Ok(None) } else { Err(Malformed::StatusLine) };
        };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed::StatusLine)?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(status).ok_or(Malformed::StatusLine)?;
        let (mut length, mut closes) = (None, text.starts_with("HTTP/1.0"));
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let found: u64 = value.parse().map_err(|_| Malformed::Length)?;
                if length.replace(found).is_some_and(|before| before != found) {
                    return Err(Malformed::Length);
                }
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.eq_ignore_ascii_case("close");
            }
        }
        // RFC 9110, 8.6: these have no body, whatever they say.
        let bodyless = status < 200 || status == 204 || status == 304;
        let body_bytes = if bodyless { 0 } else { length.ok_or(Malformed::Length)? };
        Ok(Some(Self { len: end + 4, status, body_bytes, closes }))
    }
}

fn status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let number = rest.get(..3)?.parse().ok()?;
    (100..600).contains(&number).then_some(number)
}

/// Of a head that is cut so many bytes can be kept without an allocation.
const HEAD_BYTES_USUAL: usize = 1024;
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Beyond it, one write moves as much as the kernel takes.
const REPEATED_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(status: u16, body: Option<&str>) -> Expected {
        Expected { status, body: body.map(|body| body.as_bytes().to_vec()) }
    }

    fn all(pieces: &[&[u8]], expected: &Expected) -> Result<Vec<Reply>, Malformed> {
        let mut replies = Replies::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while let Some(reply) = replies.next(&mut rest, expected)? {
                found.push(reply);
            }
            assert!(rest.is_empty());
        }
        Ok(found)
    }

    const TWO: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n\
        HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

    /// A client that reads on only at the edges of packets measures its own luck.
    #[test]
    fn replies_are_the_same_however_they_are_cut() {
        let expected = expected(200, Some("hello"));
        let whole = all(&[TWO], &expected).unwrap();
        assert_eq!(whole[0], Reply { status: 201, body_matches: false, closes: false });
        assert_eq!(whole[1], Reply { status: 200, body_matches: true, closes: true });
        for cut in 0..=TWO.len() {
            assert_eq!(all(&[&TWO[..cut], &TWO[cut..]], &expected).unwrap(), whole, "{cut}");
        }
        let bytes: Vec<&[u8]> = TWO.chunks(1).collect();
        assert_eq!(all(&bytes, &expected).unwrap(), whole);
    }

    #[test]
    fn a_body_with_another_byte_or_another_length_does_not_match() {
        for body in ["hellO", "hell", "hello!", ""] {
            let found = all(&[TWO], &expected(200, Some(body))).unwrap();
            assert!(!found[1].body_matches, "{body}");
        }
        assert!(all(&[TWO], &expected(200, None)).unwrap()[1].body_matches);
    }

    #[test]
    fn an_interim_answer_is_no_reply() {
        let text = [b"HTTP/1.1 100 Continue\r\n\r\n", TWO].concat();
        assert_eq!(all(&[&text], &expected(200, None)).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_reply_is_named() {
        let found = |text: &[u8]| all(&[text], &expected(200, None)).unwrap_err();
        assert_eq!(found(b"SSH-2.0"), Malformed::StatusLine);
        assert_eq!(found(b"HTTP/1.1 2xx no\r\n\r\n"), Malformed::StatusLine);
        assert_eq!(found(b"HTTP/1.1 200 OK\r\n\r\n"), Malformed::Length);
        assert_eq!(found(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), Malformed::Length);
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(found(two), Malformed::Length);
        let endless = [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; HEAD_BYTES_MAX]].concat();
        assert_eq!(found(&endless), Malformed::HeadTooLong);
        let pieces: Vec<&[u8]> = endless.chunks(1000).collect();
        assert_eq!(all(&pieces, &expected(200, None)), Err(Malformed::HeadTooLong));
    }

    #[test]
    fn a_row_of_requests_is_one_piece_of_memory() {
        let host = "127.0.0.1:80".parse().unwrap();
        let request = Request::new("POST", host, "/a", b"xyz").repeated(4);
        let text = "POST /a HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 3\r\n\r\nxyz";
        assert_eq!(request.from(0), text.repeat(4).as_bytes());
        assert_eq!(request.len_bytes(), text.len());
        let long = Request::new("POST", host, "/a", &vec![0; 1 << 20]).repeated(4);
        assert_eq!(long.from(0).len(), long.len_bytes());
    }
}
