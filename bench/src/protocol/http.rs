//! HTTP/1.1 as a client that checks: prepared requests, and replies parsed from any pieces.
//!
//! Nothing here is Impasto's own, so that any HTTP server can be measured.

mod framing;

use std::{fmt::Display, sync::Arc};

use super::{Ask, Malformed, Outbox, Reply, Speaker, Verdict};
pub(crate) use framing::{Head, Replies};

/// A request in bytes, and what its reply has to be.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Arc<[u8]>,
    body_bytes: usize,
    status: u16,
    /// What the body of the reply has to be; `None` if any will do.
    body: Option<Arc<[u8]>>,
}

impl Request {
    /// Returns a request with a body. An empty one is left out where none is usual.
    pub fn new(method: &str, host: impl Display, path: &str, body: &[u8]) -> Self {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        if !body.is_empty() || !matches!(method, "GET" | "HEAD" | "DELETE") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let bytes = [head.as_bytes(), b"\r\n", body].concat().into();
        Self { bytes, body_bytes: body.len(), status: 200, body: None }
    }

    /// Sets the status that the reply has to have; without this it is 200.
    #[must_use]
    pub fn expect_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets the body that the reply has to have; without this any will do.
    #[must_use]
    pub fn expect_body(mut self, body: impl Into<Arc<[u8]>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Adds a field to the head.
    #[must_use]
    pub fn with_field(mut self, name: &str, value: &str) -> Self {
        let (head, body) = self.bytes.split_at(self.bytes.len() - self.body_bytes);
        let fields = &head[..head.len() - b"\r\n".len()];
        let field = format!("{name}: {value}\r\n\r\n");
        self.bytes = [fields, field.as_bytes(), body].concat().into();
        self
    }

    /// Asks the server to close the connection behind the reply.
    #[must_use]
    pub fn closing(self) -> Self {
        self.with_field("Connection", "close")
    }

    /// Fills the head up with a field of no meaning, until the whole request has `len` bytes.
    /// `None` if it is too long, or lacks fewer bytes than such a field has.
    #[must_use]
    pub fn padded_to(self, len: usize) -> Option<Self> {
        const FIELD: &str = "X-Fill";
        let missing = len.checked_sub(self.len_bytes())?;
        if missing == 0 {
            return Some(self);
        }
        let fill = missing.checked_sub(FIELD.len() + ": \r\n".len())?;
        Some(self.with_field(FIELD, &"x".repeat(fill)))
    }

    /// Returns the length of the request, head and body.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the request as it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn payload_bytes(&self) -> u64 {
        (self.body_bytes + self.body.as_ref().map_or(0, |body| body.len())) as u64
    }
}

/// Says one request, over and over.
#[derive(Debug)]
pub(crate) struct Constant {
    request: Request,
    replies: Replies,
    /// How much of the body was there, and whether it is the expected one so far.
    at: usize,
    matches: bool,
}

impl Constant {
    pub(crate) fn new(request: &Request) -> Self {
        Self { request: request.clone(), replies: Replies::default(), at: 0, matches: true }
    }
}

impl Speaker for Constant {
    fn ask(&mut self, _ask: Ask, out: &mut Outbox) {
        out.push(&self.request.bytes, 0..self.request.bytes.len());
    }

    fn reply(&mut self, bytes: &mut &[u8], _ask: Ask) -> Result<Option<Reply>, Malformed> {
        let Self { request, replies, at, matches } = self;
        let head = replies.next(bytes, |piece| {
            if let Some(body) = &request.body {
                *matches = *matches && body.get(*at..*at + piece.len()) == Some(piece);
            }
            *at += piece.len();
        })?;
        let Some(head) = head else { return Ok(None) };
        let is_whole = request.body.as_ref().is_none_or(|body| body.len() == *at);
        let verdict = if head.status != request.status {
            Verdict::Status(head.status)
        } else if !*matches || !is_whole {
            Verdict::OtherBody
        } else {
            Verdict::Good
        };
        (*at, *matches) = (0, true);
        Ok(Some(Reply { verdict, payload_bytes: request.payload_bytes(), closes: head.closes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n";

    fn verdicts(request: &Request) -> Vec<Verdict> {
        let mut speaker = Constant::new(request);
        let mut rest = TWO;
        let mut found = Vec::new();
        while let Some(reply) = speaker.reply(&mut rest, Ask::Same).unwrap() {
            found.push(reply.verdict);
        }
        found
    }

    #[test]
    fn a_body_with_another_byte_or_another_length_does_not_match() {
        let request = Request::new("GET", "a", "/", b"");
        assert_eq!(verdicts(&request), [Verdict::Good; 2]);
        assert_eq!(verdicts(&request.clone().expect_body(*b"hello")), [Verdict::Good; 2]);
        for body in ["hellO", "hell", "hello!", ""] {
            let request = request.clone().expect_body(body.as_bytes());
            assert_eq!(verdicts(&request), [Verdict::OtherBody; 2], "{body}");
        }
        assert_eq!(verdicts(&request.expect_status(201)), [Verdict::Status(200); 2]);
    }

    #[test]
    fn a_request_is_what_was_asked_for_to_the_byte() {
        let request = Request::new("POST", "a:80", "/b", b"xyz");
        let text = "POST /b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nxyz";
        assert_eq!(request.as_bytes(), text.as_bytes());
        let text = "POST /b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\
            Connection: close\r\n\r\nxyz";
        assert_eq!(request.clone().closing().as_bytes(), text.as_bytes());
        let padded = request.clone().padded_to(1156).unwrap();
        assert_eq!(padded.len_bytes(), 1156);
        assert!(padded.as_bytes().ends_with(b"xxx\r\n\r\nxyz"));
        let len = request.len_bytes();
        assert_eq!(request.clone().padded_to(len).unwrap().len_bytes(), len);
        assert!(request.clone().padded_to(len - 1).is_none());
        assert!(request.padded_to(len + 1).is_none());
        // The read of the seeds' workload.
        assert_eq!(Request::new("GET", "0.0.0.0", "/v1/logs/r/1", b"").len_bytes(), 44);
    }
}
