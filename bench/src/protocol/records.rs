//! Keyed work over HTTP: writes append to a log of Impasto, reads get records appended before.
//!
//! The record of key `k` is number `first + k` of the log: whoever fills the log keeps to that, and
//! the stamp in each value tells if it is so.

use std::{fmt::Display, io::Write};

use super::{
    Ask, Malformed, Outbox, Reply, Speaker, Values, Verdict,
    http::{Head, Replies},
};

/// A connection that appends and reads records.
#[derive(Debug)]
pub(crate) struct Records {
    append_head: Vec<u8>,
    read_head: Vec<u8>,
    read_end: Vec<u8>,
    first: u64,
    values: Values,
    replies: Replies,
    at: usize,
    matches: bool,
}

impl Records {
    pub(crate) fn new(host: impl Display, log: &str, first: u64, values: Values) -> Self {
        let len = values.len_bytes();
        let append_head =
            format!("POST {log} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len}\r\n\r\n");
        Self {
            append_head: append_head.into(),
            read_head: format!("GET {log}/").into(),
            read_end: format!(" HTTP/1.1\r\nHost: {host}\r\n\r\n").into(),
            first,
            values,
            replies: Replies::default(),
            at: 0,
            matches: true,
        }
    }

    fn verdict(&self, head: Head, ask: Ask) -> Verdict {
        match (ask, head.status) {
            (Ask::Read(_), 200) if self.matches && self.at == self.values.len_bytes() => {
                Verdict::Good
            }
            (Ask::Read(_), 200) => Verdict::OtherBody,
            (Ask::Read(_), 404) => Verdict::Missing,
            (Ask::Write(_), 201) => Verdict::Good,
            (_, status) => Verdict::Status(status),
        }
    }
}

impl Speaker for Records {
    fn ask(&mut self, ask: Ask, out: &mut Outbox) {
        match ask {
            Ask::Write(key) => {
                out.own.extend_from_slice(&self.append_head);
                self.values.write(key, out);
            }
            Ask::Read(key) => {
                out.own.extend_from_slice(&self.read_head);
                write!(out.own, "{}", self.first + key).expect("a vector takes all");
                out.own.extend_from_slice(&self.read_end);
            }
            Ask::Hello | Ask::Same => {}
        }
    }

    fn reply(&mut self, bytes: &mut &[u8], ask: Ask) -> Result<Option<Reply>, Malformed> {
        let Self { values, replies, at, matches, .. } = self;
        let head = replies.next(bytes, |piece| {
            if let Ask::Read(key) = ask {
                *matches = *matches && values.matches(key, *at, piece);
            }
            *at += piece.len();
        })?;
        let Some(head) = head else { return Ok(None) };
        let verdict = self.verdict(head, ask);
        (self.at, self.matches) = (0, true);
        let payload_bytes = self.values.len_bytes() as u64;
        Ok(Some(Reply { verdict, payload_bytes, closes: head.closes }))
    }
}
