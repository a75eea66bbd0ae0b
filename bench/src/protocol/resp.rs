//! RESP, the protocol of Redis and Valkey: SET and GET, replies of version 2, and of 3 where they
//! mean the same.

use std::{io::Write, sync::Arc};

use super::{
    Ask, Malformed, Outbox, Reply, Speaker, Values, Verdict, key_name,
    pieces::{Lines, Passing, keep_words, number},
};

/// A connection that sets and gets.
#[derive(Debug)]
pub(crate) struct Resp {
    auth: Option<Arc<[String]>>,
    values: Values,
    /// What stands between key and value.
    value_head: Vec<u8>,
    lines: Lines,
    value: Option<Passing>,
    said: String,
}

impl Resp {
    /// Returns a speaker that gives `auth` to AUTH, if there is something.
    pub(crate) fn new(auth: Option<Arc<[String]>>, values: Values) -> Self {
        let value_head = format!("\r\n${}\r\n", values.len_bytes()).into();
        Self { auth, values, value_head, lines: Lines::default(), value: None, said: String::new() }
    }
}

impl Speaker for Resp {
    fn hello(&mut self, out: &mut Outbox) -> bool {
        let Some(words) = &self.auth else { return false };
        write!(out.own, "*{}\r\n$4\r\nAUTH\r\n", words.len() + 1).expect("a vector takes all");
        for word in words.iter() {
            write!(out.own, "${}\r\n{word}\r\n", word.len()).expect("a vector takes all");
        }
        true
    }

    fn ask(&mut self, ask: Ask, out: &mut Outbox) {
        match ask {
            Ask::Write(key) => {
                out.own.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$15\r\n");
                out.own.extend_from_slice(&key_name(key));
                out.own.extend_from_slice(&self.value_head);
                self.values.write(key, out);
                out.own.extend_from_slice(b"\r\n");
            }
            Ask::Read(key) => {
                out.own.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$15\r\n");
                out.own.extend_from_slice(&key_name(key));
                out.own.extend_from_slice(b"\r\n");
            }
            Ask::Hello | Ask::Same => {}
        }
    }

    fn reply(&mut self, bytes: &mut &[u8], ask: Ask) -> Result<Option<Reply>, Malformed> {
        if self.value.is_none() {
            let Some(line) = self.lines.next(bytes, Malformed::Resp)? else { return Ok(None) };
            let (kind, rest) = line.split_first().ok_or(Malformed::Resp)?;
            let verdict = match (kind, rest) {
                (b'+', b"OK") if !matches!(ask, Ask::Read(_)) => Verdict::Good,
                (b'$', b"-1") | (b'_', b"") if matches!(ask, Ask::Read(_)) => Verdict::Missing,
                (b'-', words) => {
                    keep_words(&mut self.said, words);
                    Verdict::Refused
                }
                (b'$', len) if matches!(ask, Ask::Read(_)) => {
                    let len = number(len).ok_or(Malformed::Resp)?;
                    self.value = Some(Passing::new(len, &self.values));
                    Verdict::Good
                }
                _ => return Err(Malformed::Resp),
            };
            if self.value.is_none() {
                return Ok(Some(self.as_reply(verdict)));
            }
        }
        let (Some(value), Ask::Read(key)) = (&mut self.value, ask) else {
            return Err(Malformed::Resp);
        };
        if !value.take(bytes, &self.values, key) {
            return Ok(None);
        }
        match self.lines.next(bytes, Malformed::Resp)? {
            None => Ok(None),
            Some(b"") => {
                let verdict = value.verdict();
                self.value = None;
                Ok(Some(self.as_reply(verdict)))
            }
            Some(_) => Err(Malformed::Resp),
        }
    }

    fn said(&self) -> &str {
        &self.said
    }
}

impl Resp {
    fn as_reply(&self, verdict: Verdict) -> Reply {
        Reply { verdict, payload_bytes: self.values.len_bytes() as u64, closes: false }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{heard, said},
        *,
    };

    fn speaker() -> Resp {
        Resp::new(None, Values::new(3))
    }

    #[test]
    fn requests_are_those_of_the_protocol() {
        let text = "*3\r\n$3\r\nSET\r\n$15\r\nkey000000000018\r\n$3\r\n210\r\n\
            *2\r\n$3\r\nGET\r\n$15\r\nkey000000000018\r\n";
        assert_eq!(said(&mut speaker(), &[Ask::Write(18), Ask::Read(18)]), text);
        let words: Arc<[String]> = ["me".to_owned(), "secret".to_owned()].into();
        let mut out = Outbox::default();
        assert!(Resp::new(Some(words), Values::new(3)).hello(&mut out));
        assert_eq!(out.own, b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$6\r\nsecret\r\n");
    }

    /// A store that answers with another key's value, or with nothing, is fast and wrong.
    #[test]
    fn replies_are_checked_however_they_are_cut() {
        let text = b"+OK\r\n$3\r\n210\r\n$3\r\n310\r\n$4\r\n2100\r\n$-1\r\n_\r\n-ERR no\r\n";
        let read = Ask::Read(18);
        let asks = [Ask::Write(18), read, read, read, read, read, read];
        let wanted = [
            Verdict::Good,
            Verdict::Good,
            Verdict::OtherBody,
            Verdict::OtherBody,
            Verdict::Missing,
            Verdict::Missing,
            Verdict::Refused,
        ];
        assert_eq!(heard(speaker, &asks, text).unwrap(), wanted);
        for bad in ["HTTP/1.1 400 Bad Request\r\n", ":1\r\n", "+OK\r\n", "$x\r\n", "\r\n"] {
            let found = heard(speaker, &[read], bad.as_bytes());
            assert_eq!(found, Err(Malformed::Resp), "{bad}");
        }
    }
}
