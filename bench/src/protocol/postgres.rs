//! Postgres: a prepared upsert and a prepared select, each a Bind, Execute and Sync of its own, as
//! drivers send them (protocol 3.0). Who it is has to be trusted: passwords are not known here.
//!
//! ```text
//! hello: startup, [create the table], parse both, sync    -> ready for query, twice or thrice
//! request: bind, execute, sync                            -> [row], complete, ready for query
//! ```

use std::mem;

use super::{Ask, Malformed, Outbox, Reply, Speaker, Values, Verdict, pieces::Passing};

/// A connection that upserts and selects.
#[derive(Debug)]
pub(crate) struct Postgres {
    hello: Vec<u8>,
    /// How often the server is ready for a query until it has answered the hello.
    hello_readies: u32,
    write_head: Vec<u8>,
    read_head: Vec<u8>,
    values: Values,
    message: Message,
    /// How often it was ready since the last reply.
    readies: u32,
    verdict: Option<Verdict>,
    /// Whether something was carried out: ready alone is no answer to a request.
    is_complete: bool,
    said: String,
}

/// The message that comes in.
#[derive(Debug, Default)]
struct Message {
    /// Its kind and length, as far as they are there.
    head: [u8; HEAD_BYTES],
    head_len: usize,
    left: usize,
    /// What it begins with; of a row: the number of columns and the length of the first.
    start: Vec<u8>,
    value: Option<Passing>,
}

impl Postgres {
    /// Returns a speaker; it makes the table if `creates` says so.
    pub(crate) fn new(user: &str, database: &str, creates: bool, values: Values) -> Self {
        let mut hello = Vec::new();
        let startup = format!("user\0{user}\0database\0{database}\0\0");
        push_i32(&mut hello, startup.len() + 8);
        push_i32(&mut hello, PROTOCOL_3_0);
        hello.extend_from_slice(startup.as_bytes());
        if creates {
            push_message(&mut hello, b'Q', &[CREATE.as_bytes(), b"\0"].concat());
        }
        for (name, text, types) in [("w", UPSERT, &[BIGINT, BYTEA][..]), ("r", SELECT, &[BIGINT])] {
            let mut body = format!("{name}\0{text}\0").into_bytes();
            push_i16(&mut body, types.len());
            types.iter().for_each(|kind| push_i32(&mut body, *kind));
            push_message(&mut hello, b'P', &body);
        }
        push_message(&mut hello, b'S', b"");
        let write_bytes = size_of::<u64>() + size_of::<u32>() + values.len_bytes();
        Self {
            hello,
            hello_readies: if creates { 3 } else { 2 },
            write_head: bind_head("w", 2, write_bytes),
            read_head: bind_head("r", 1, size_of::<u64>()),
            values,
            message: Message::default(),
            readies: 0,
            verdict: None,
            is_complete: false,
            said: String::new(),
        }
    }

    /// Looks at a message that is complete; returns the reply if it was the last of one.
    fn end_message(&mut self, ask: Ask) -> Result<Option<Reply>, Malformed> {
        let Message { head, start, value, .. } = &mut self.message;
        match head[0] {
            b'E' => {
                self.said = message_of(start);
                self.verdict = Some(Verdict::Refused);
                if ask == Ask::Hello {
                    // Nothing can be asked on this connection.
                    return Ok(Some(self.end_reply(ask, true)));
                }
            }
            // Anything but "you are in": a request for a password.
            b'R' if start[..] != [0; 4] => return Err(Malformed::Password),
            b'D' => {
                let verdict = value.take().map_or(Verdict::OtherBody, |value| value.verdict());
                self.verdict = self.verdict.or(Some(verdict));
            }
            b'Z' => {
                self.readies += 1;
                let wanted = if ask == Ask::Hello { self.hello_readies } else { 1 };
                let is_complete = mem::take(&mut self.is_complete);
                if ask != Ask::Hello && !is_complete && self.verdict.is_none() {
                    return Err(Malformed::Postgres);
                }
                if self.readies == wanted {
                    return Ok(Some(self.end_reply(ask, false)));
                }
            }
            b'C' => self.is_complete = true,
            // Bound, parameters, keys, notices, parsed: as it should be.
            b'1' | b'2' | b'K' | b'N' | b'R' | b'S' => {}
            _ => return Err(Malformed::Postgres),
        }
        Ok(None)
    }

    fn end_reply(&mut self, ask: Ask, closes: bool) -> Reply {
        self.readies = 0;
        let without_rows =
            if matches!(ask, Ask::Read(_)) { Verdict::Missing } else { Verdict::Good };
        let verdict = self.verdict.take().unwrap_or(without_rows);
        Reply { verdict, payload_bytes: self.values.len_bytes() as u64, closes }
    }
}

impl Message {
    /// Takes bytes from the front of `bytes`; returns true if the message is complete.
    fn take(&mut self, bytes: &mut &[u8], ask: Ask, values: &Values) -> Result<bool, Malformed> {
        if self.head_len < HEAD_BYTES {
            let (piece, rest) = bytes.split_at((HEAD_BYTES - self.head_len).min(bytes.len()));
            self.head[self.head_len..self.head_len + piece.len()].copy_from_slice(piece);
            self.head_len += piece.len();
            *bytes = rest;
            if !self.head[0].is_ascii_alphanumeric() {
                return Err(Malformed::Postgres);
            }
            if self.head_len < HEAD_BYTES {
                return Ok(false);
            }
            let len = i32_at(&self.head[1..]).checked_sub(4).ok_or(Malformed::Postgres)?;
            let is_row = self.head[0] == b'D';
            if len > if is_row { ROW_BYTES_MAX } else { MESSAGE_BYTES_MAX } {
                return Err(Malformed::Postgres);
            }
            self.left = len;
            self.start.clear();
            self.value = None;
        }
        let (mut piece, rest) = bytes.split_at(self.left.min(bytes.len()));
        self.left -= piece.len();
        *bytes = rest;
        self.take_body(&mut piece, ask, values);
        Ok(self.left == 0)
    }

    fn take_body(&mut self, piece: &mut &[u8], ask: Ask, values: &Values) {
        let is_row = self.head[0] == b'D';
        let start_max = if is_row { ROW_HEAD_BYTES } else { START_BYTES_MAX };
        let (start, rest) = piece.split_at((start_max - self.start.len()).min(piece.len()));
        self.start.extend_from_slice(start);
        *piece = rest;
        if let Ask::Read(key) = ask
            && is_row
            && self.start.len() == ROW_HEAD_BYTES
        {
            let value =
                self.value.get_or_insert_with(|| Passing::new(i32_at(&self.start[2..]), values));
            value.take(piece, values, key);
        }
    }
}

impl Speaker for Postgres {
    fn hello(&mut self, out: &mut Outbox) -> bool {
        out.own.extend_from_slice(&self.hello);
        true
    }

    fn ask(&mut self, ask: Ask, out: &mut Outbox) {
        match ask {
            Ask::Write(key) => {
                out.own.extend_from_slice(&self.write_head);
                push_i64(&mut out.own, key);
                push_i32(&mut out.own, self.values.len_bytes());
                self.values.write(key, out);
            }
            Ask::Read(key) => {
                out.own.extend_from_slice(&self.read_head);
                push_i64(&mut out.own, key);
            }
            Ask::Hello | Ask::Same => return,
        }
        out.own.extend_from_slice(REQUEST_END);
    }

    fn reply(&mut self, bytes: &mut &[u8], ask: Ask) -> Result<Option<Reply>, Malformed> {
        while !bytes.is_empty() {
            if self.message.take(bytes, ask, &self.values)? {
                self.message.head_len = 0;
                if let Some(reply) = self.end_message(ask)? {
                    return Ok(Some(reply));
                }
            }
        }
        Ok(None)
    }

    fn said(&self) -> &str {
        &self.said
    }
}

/// Returns a Bind of a prepared statement up to its first parameter's bytes: all in binary.
fn bind_head(statement: &str, parameters: usize, parameter_bytes: usize) -> Vec<u8> {
    let mut body = format!("\0{statement}\0").into_bytes();
    push_i16(&mut body, 1);
    push_i16(&mut body, BINARY);
    push_i16(&mut body, parameters);
    push_i32(&mut body, size_of::<u64>());
    let mut head = vec![b'B'];
    push_i32(&mut head, 4 + body.len() + parameter_bytes + RESULT_FORMAT_BYTES);
    head.extend_from_slice(&body);
    head
}

fn push_message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    push_i32(out, 4 + body.len());
    out.extend_from_slice(body);
}

/// Returns the words of an error: fields that begin with a letter and end with a zero.
fn message_of(fields: &[u8]) -> String {
    let mut fields = fields.split(|byte| *byte == 0);
    let words = fields.find_map(|field| field.strip_prefix(b"M")).unwrap_or(b"no message");
    String::from_utf8_lossy(words).into_owned()
}

#[expect(clippy::big_endian_bytes, reason = "the protocol's integers")]
fn push_i64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

#[expect(clippy::big_endian_bytes, reason = "the protocol's integers")]
fn push_i32(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u32::try_from(number).expect("it is a length").to_be_bytes());
}

#[expect(clippy::big_endian_bytes, reason = "the protocol's integers")]
fn push_i16(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u16::try_from(number).expect("it is a count").to_be_bytes());
}

/// Returns the integer that `bytes` begin with; a negative one is a large one.
#[expect(clippy::big_endian_bytes, reason = "the protocol's integers")]
fn i32_at(bytes: &[u8]) -> usize {
    let four = bytes.first_chunk().expect("there are four bytes");
    usize::try_from(u32::from_be_bytes(*four)).expect("a usize holds it")
}

pub(crate) const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS impasto_bench (k bigint PRIMARY KEY, v bytea NOT NULL)";
const UPSERT: &str = "INSERT INTO impasto_bench (k, v) VALUES ($1, $2) \
    ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v";
const SELECT: &str = "SELECT v FROM impasto_bench WHERE k = $1";
/// One format for all results, binary; execute without a limit of rows; sync.
const REQUEST_END: &[u8] = b"\0\x01\0\x01E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
const RESULT_FORMAT_BYTES: usize = 4;
const PROTOCOL_3_0: usize = 3 << 16;
const BINARY: usize = 1;
/// Numbers of types (pg_type).
const BIGINT: usize = 20;
const BYTEA: usize = 17;
const HEAD_BYTES: usize = 5;
const ROW_HEAD_BYTES: usize = 6;
/// Of other messages so much is kept.
const START_BYTES_MAX: usize = 512;
const ROW_BYTES_MAX: usize = 1 << 30;
/// Of all others; four letters of another protocol are more.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{heard, said},
        *,
    };

    fn speaker() -> Postgres {
        Postgres::new("me", "here", false, Values::new(3))
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        push_message(&mut message, kind, body);
        message
    }

    fn row(value: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 1];
        push_i32(&mut body, value.len());
        body.extend_from_slice(value);
        message(b'D', &body)
    }

    /// The lengths count themselves and not the kind; a server that finds them wrong hangs up.
    #[test]
    fn requests_are_those_of_the_protocol() {
        let found = said(&mut speaker(), &[Ask::Write(18), Ask::Read(18)]);
        let mut wanted = b"B\0\0\0\x24\0w\0\0\x01\0\x01\0\x02\0\0\0\x08".to_vec();
        wanted.extend_from_slice(b"\0\0\0\0\0\0\0\x12\0\0\0\x03210\0\x01\0\x01");
        let end = b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
        wanted.extend_from_slice(end);
        wanted.extend_from_slice(b"B\0\0\0\x1d\0r\0\0\x01\0\x01\0\x01\0\0\0\x08");
        wanted.extend_from_slice(b"\0\0\0\0\0\0\0\x12\0\x01\0\x01");
        wanted.extend_from_slice(end);
        assert_eq!(found.as_bytes(), wanted);
    }

    #[test]
    fn replies_are_checked_however_they_are_cut() {
        let ready = message(b'Z', b"I");
        let hello = [message(b'R', &[0; 4]), message(b'S', b"a\0b\0"), ready.clone()].concat();
        let parsed = [message(b'1', b""), message(b'1', b""), ready.clone()].concat();
        let complete = [message(b'C', b"INSERT 0 1\0"), ready.clone()].concat();
        let error = message(b'E', b"SERROR\0C40001\0Mtoo late\0\0");
        let bound = message(b'2', b"");
        let text = [
            &hello,
            &parsed,
            &bound,
            &complete,
            &bound,
            &row(b"210"),
            &complete,
            &bound,
            &row(b"310"),
            &complete,
            &bound,
            &complete,
            &error,
            &ready,
        ];
        let text: Vec<u8> = text.into_iter().flatten().copied().collect();
        let read = Ask::Read(18);
        let asks = [Ask::Hello, Ask::Write(18), read, read, read, read];
        let wanted = [
            Verdict::Good,
            Verdict::Good,
            Verdict::Good,
            Verdict::OtherBody,
            Verdict::Missing,
            Verdict::Refused,
        ];
        assert_eq!(heard(speaker, &asks, &text).unwrap(), wanted);
        let mut speaker = speaker();
        let refused = speaker.reply(&mut &error[..], Ask::Hello).unwrap().unwrap();
        assert_eq!((refused.verdict, refused.closes), (Verdict::Refused, true));
        assert_eq!(speaker.said(), "too late");
    }

    #[test]
    fn what_is_no_reply_is_named() {
        let password = message(b'R', b"\0\0\0\x05abcd");
        assert_eq!(heard(speaker, &[Ask::Hello], &password), Err(Malformed::Password));
        for bad in
            [&b"-ERR x\r\n"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", b"Z\0\0\0\x01I", b"220 mail"]
        {
            assert_eq!(heard(speaker, &[Ask::Hello], bad), Err(Malformed::Postgres), "{bad:?}");
        }
        // Ready again, and nothing done: a write that nobody has carried out.
        let ready = message(b'Z', b"I");
        for ask in [Ask::Write(1), Ask::Read(1)] {
            assert_eq!(heard(speaker, &[ask], &ready), Err(Malformed::Postgres));
        }
    }
}
