//! memcached's text protocol: set and get.

use std::io::Write;

use super::{
    Ask, Malformed, Outbox, Reply, Speaker, Values, Verdict, key_name,
    pieces::{Lines, Passing, keep_words, number},
};

/// A connection that sets and gets.
#[derive(Debug)]
pub(crate) struct Memcache {
    values: Values,
    lines: Lines,
    part: Part,
    said: String,
}

/// What comes next.
#[derive(Debug)]
enum Part {
    Line,
    Value(Passing),
    /// Of the value, and then of the reply.
    End(Verdict),
}

impl Memcache {
    pub(crate) fn new(values: Values) -> Self {
        Self { values, lines: Lines::default(), part: Part::Line, said: String::new() }
    }

    fn done(&mut self, verdict: Verdict) -> Result<Option<Reply>, Malformed> {
        self.part = Part::Line;
        let payload_bytes = self.values.len_bytes() as u64;
        Ok(Some(Reply { verdict, payload_bytes, closes: false }))
    }
}

impl Speaker for Memcache {
    fn ask(&mut self, ask: Ask, out: &mut Outbox) {
        match ask {
            Ask::Write(key) => {
                out.own.extend_from_slice(b"set ");
                out.own.extend_from_slice(&key_name(key));
                write!(out.own, " 0 0 {}\r\n", self.values.len_bytes()).expect("a vector takes it");
                self.values.write(key, out);
                out.own.extend_from_slice(b"\r\n");
            }
            Ask::Read(key) => {
                out.own.extend_from_slice(b"get ");
                out.own.extend_from_slice(&key_name(key));
                out.own.extend_from_slice(b"\r\n");
            }
            Ask::Hello | Ask::Same => {}
        }
    }

    fn reply(&mut self, bytes: &mut &[u8], ask: Ask) -> Result<Option<Reply>, Malformed> {
        const BAD: Malformed = Malformed::Memcache;
        loop {
            match &mut self.part {
                Part::Line => {
                    let Some(line) = self.lines.next(bytes, BAD)? else { return Ok(None) };
                    let is_read = matches!(ask, Ask::Read(_));
                    let mut words = line.split(|byte| *byte == b' ');
                    let verdict = match words.next().unwrap_or_default() {
                        b"STORED" if !is_read => Verdict::Good,
                        b"END" if is_read => Verdict::Missing,
                        b"VALUE" if is_read => {
                            // The name, the flags, the length.
                            let len = words.nth(2).and_then(number).ok_or(BAD)?;
                            self.part = Part::Value(Passing::new(len, &self.values));
                            continue;
                        }
                        b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR" | b"NOT_STORED" => {
                            keep_words(&mut self.said, line);
                            Verdict::Refused
                        }
                        _ => return Err(BAD),
                    };
                    return self.done(verdict);
                }
                Part::Value(value) => {
                    let Ask::Read(key) = ask else { return Err(BAD) };
                    if !value.take(bytes, &self.values, key) {
                        return Ok(None);
                    }
                    self.part = Part::End(value.verdict());
                }
                Part::End(verdict) => {
                    let verdict = *verdict;
                    match self.lines.next(bytes, BAD)? {
                        None => return Ok(None),
                        Some(b"") => {}
                        Some(b"END") => return self.done(verdict),
                        Some(_) => return Err(BAD),
                    }
                }
            }
        }
    }

    fn said(&self) -> &str {
        &self.said
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{heard, said},
        *,
    };

    fn speaker() -> Memcache {
        Memcache::new(Values::new(3))
    }

    #[test]
    fn requests_are_those_of_the_protocol() {
        let text = "set key000000000018 0 0 3\r\n210\r\nget key000000000018\r\n";
        assert_eq!(said(&mut speaker(), &[Ask::Write(0x12), Ask::Read(18)]), text);
    }

    /// What a cache has lost, or has mixed up, is no hit.
    #[test]
    fn replies_are_checked_however_they_are_cut() {
        let text = b"STORED\r\nVALUE key000000000018 0 3\r\n210\r\nEND\r\n\
            VALUE key000000000018 0 3\r\n310\r\nEND\r\nEND\r\nSERVER_ERROR out of memory\r\n";
        let asks = [Ask::Write(18), Ask::Read(18), Ask::Read(18), Ask::Read(18), Ask::Write(18)];
        let wanted =
            [Verdict::Good, Verdict::Good, Verdict::OtherBody, Verdict::Missing, Verdict::Refused];
        assert_eq!(heard(speaker, &asks, text).unwrap(), wanted);
        for bad in ["+OK\r\n", "STORED\r\n", "HTTP/1.1 400 Bad Request\r\n", "VALUE k 0 x\r\n"] {
            let found = heard(speaker, &[Ask::Read(18)], bad.as_bytes());
            assert_eq!(found, Err(Malformed::Memcache), "{bad}");
        }
    }
}
