//! What a client says to a server and hears from it, in several protocols.
//!
//! ```text
//! Ask -> Speaker::ask -> Outbox -> socket -> any pieces of bytes -> Speaker::reply -> Reply
//! ```
//!
//! A speaker belongs to one connection. It looks at each byte of a reply once, keeps none of them
//! that it does not have to, and says whether they are what they should be.

pub(crate) mod beanstalk;
pub(crate) mod etcd;
pub(crate) mod http;
pub(crate) mod memcache;
pub(crate) mod outbox;
pub(crate) mod pieces;
pub(crate) mod postgres;
pub(crate) mod records;
pub(crate) mod resp;
pub(crate) mod values;

use std::fmt;

pub use http::Request;
pub(crate) use outbox::Outbox;
pub use values::Values;

/// One connection's side of a protocol.
pub(crate) trait Speaker: fmt::Debug + Send {
    /// Appends what a connection begins with. Returns true if that is answered: with one reply, to
    /// [`Ask::Hello`].
    fn hello(&mut self, _out: &mut Outbox) -> bool {
        false
    }

    /// Appends a request.
    fn ask(&mut self, ask: Ask, out: &mut Outbox);

    /// Takes bytes from the front of `bytes` until the reply to `ask`, the oldest request without
    /// one, is complete. `None`: all were taken.
    ///
    /// # Errors
    /// What makes the rest of the connection worthless.
    fn reply(&mut self, bytes: &mut &[u8], ask: Ask) -> Result<Option<Reply>, Malformed>;

    /// Returns the words of the last refusal.
    fn said(&self) -> &str {
        ""
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What a connection begins with; no request of the load.
    Hello,
    /// The one request that a constant work consists of.
    Same,
    /// A write of the value of a key.
    Write(u64),
    /// A read of the value of a key.
    Read(u64),
}

/// A reply that has come in as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) verdict: Verdict,
    /// Payload that was moved if the verdict is good: sent, or received.
    pub(crate) payload_bytes: u64,
    /// True if the server will close the connection behind it.
    pub(crate) closes: bool,
}

/// What a reply is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it had to be.
    Good,
    /// Another status of HTTP.
    Status(u16),
    /// Another body, or another value than the key's.
    OtherBody,
    /// There is no such key.
    Missing,
    /// The server says no, in words: [`Speaker::said`].
    Refused,
}

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Malformed {
    #[error("it does not start with a status line of HTTP/1")]
    StatusLine,
    #[error("it has no Content-Length, or several that differ, or one that is no number")]
    Length,
    #[error("its head is over 16 KiB")]
    HeadTooLong,
    #[error("its chunks have no proper lengths or ends")]
    Chunk,
    #[error("it is no reply of RESP to what was asked")]
    Resp,
    #[error("it is no reply of memcached to what was asked")]
    Memcache,
    #[error("it is no reply of beanstalkd to what was asked")]
    Beanstalk,
    #[error("it is no message of Postgres")]
    Postgres,
    #[error("it asks for a password; only users that Postgres trusts are known here")]
    Password,
}

/// Returns the name of a key: a multiple of 3 bytes, for base64's sake.
pub(crate) fn key_name(key: u64) -> [u8; 15] {
    let mut name = *b"key000000000000";
    let mut left = key;
    for digit in name[3..].iter_mut().rev() {
        *digit += u8::try_from(left % 10).expect("a digit");
        left /= 10;
    }
    name
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns what a speaker says.
    pub(crate) fn said(speaker: &mut dyn Speaker, asks: &[Ask]) -> String {
        let mut out = Outbox::default();
        asks.iter().for_each(|ask| speaker.ask(*ask, &mut out));
        let mut text = Vec::new();
        out.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Returns the verdicts on the replies in `text`, which are the same wherever it is cut.
    pub(crate) fn heard<S: Speaker>(
        new: impl Fn() -> S,
        asks: &[Ask],
        text: &[u8],
    ) -> Result<Vec<Verdict>, Malformed> {
        let whole = heard_in(new(), asks, &[text]);
        for cut in 0..=text.len() {
            assert_eq!(heard_in(new(), asks, &[&text[..cut], &text[cut..]]), whole, "{cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(heard_in(new(), asks, &bytes), whole);
        whole
    }

    fn heard_in(
        mut speaker: impl Speaker,
        asks: &[Ask],
        pieces: &[&[u8]],
    ) -> Result<Vec<Verdict>, Malformed> {
        let mut out = Outbox::default();
        asks.iter().for_each(|ask| speaker.ask(*ask, &mut out));
        let mut found = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let ask = *asks.get(found.len()).expect("each reply was asked for");
                found.extend(speaker.reply(&mut rest, ask)?.map(|reply| reply.verdict));
            }
        }
        Ok(found)
    }
}
