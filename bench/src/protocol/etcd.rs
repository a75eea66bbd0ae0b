//! etcd's gateway: put and range as JSON over HTTP, keys and values in base64.

use std::{fmt::Display, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Ask, Malformed, Outbox, Reply, Speaker, Values, Verdict, http::Replies, key_name,
    values::STAMP_BYTES,
};

/// A connection that puts and gets.
#[derive(Debug)]
pub(crate) struct Etcd {
    put_head: Vec<u8>,
    get_head: Vec<u8>,
    values: Values,
    /// Values in base64, from behind the stamp.
    filler: Arc<[u8]>,
    replies: Replies,
    /// The body of a reply: a value stands somewhere in it.
    body: Vec<u8>,
}

impl Etcd {
    pub(crate) fn new(host: impl Display, values: Values) -> Self {
        let post = |path: &str, len: usize| {
            let head = format!("POST /v3/kv/{path} HTTP/1.1\r\nHost: {host}\r\n");
            let fields = format!("Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n");
            (head + &fields).into_bytes()
        };
        let filler: Arc<[u8]> = STANDARD.encode(values.behind_stamp()).into_bytes().into();
        let stamp_bytes = values.len_bytes().min(STAMP_BYTES).div_ceil(3) * 4;
        let key_bytes = key_name(0).len().div_ceil(3) * 4;
        let get_len = KEY.len() + key_bytes + END.len();
        let put_len = get_len + VALUE.len() + stamp_bytes + filler.len();
        Self {
            put_head: post("put", put_len),
            get_head: post("range", get_len),
            body: Vec::with_capacity(2 * values.len_bytes() + BODY_BYTES_USUAL),
            values,
            filler,
            replies: Replies::default(),
        }
    }

    /// Returns what a value is worth that stands in the body of a reply.
    fn verdict(&self, key: u64) -> Verdict {
        let field = br#""value":""#;
        let Some(at) = self.body.windows(field.len()).position(|piece| piece == field) else {
            return Verdict::Missing;
        };
        let found = &self.body[at + field.len()..];
        let stamp = encoded(self.values.stamp(key).as_ref());
        let behind = found.strip_prefix(stamp.as_ref());
        let end = behind.and_then(|behind| behind.strip_prefix(&*self.filler));
        if end.is_some_and(|end| end.starts_with(b"\"")) {
            Verdict::Good
        } else {
            Verdict::OtherBody
        }
    }
}

impl Speaker for Etcd {
    fn ask(&mut self, ask: Ask, out: &mut Outbox) {
        let (key, head) = match ask {
            Ask::Write(key) => (key, &self.put_head),
            Ask::Read(key) => (key, &self.get_head),
            Ask::Hello | Ask::Same => return,
        };
        out.own.extend_from_slice(head);
        out.own.extend_from_slice(KEY);
        out.own.extend_from_slice(encoded(&key_name(key)).as_ref());
        if matches!(ask, Ask::Write(_)) {
            out.own.extend_from_slice(VALUE);
            out.own.extend_from_slice(encoded(self.values.stamp(key).as_ref()).as_ref());
            out.push(&self.filler, 0..self.filler.len());
        }
        out.own.extend_from_slice(END);
    }

    fn reply(&mut self, bytes: &mut &[u8], ask: Ask) -> Result<Option<Reply>, Malformed> {
        let Self { replies, body, .. } = self;
        // What is longer than all that etcd says around a value is none of its replies.
        let body_bytes_max = 2 * self.values.len_bytes() + BODY_BYTES_MAX;
        let keep = |piece: &[u8]| {
            let room = body_bytes_max.saturating_sub(body.len());
            body.extend_from_slice(&piece[..piece.len().min(room)]);
        };
        let Some(head) = replies.next(bytes, keep)? else { return Ok(None) };
        let verdict = match (head.status, ask) {
            (200, Ask::Read(key)) => self.verdict(key),
            (200, _) => Verdict::Good,
            (status, _) => Verdict::Status(status),
        };
        self.body.clear();
        let payload_bytes = self.values.len_bytes() as u64;
        Ok(Some(Reply { verdict, payload_bytes, closes: head.closes }))
    }
}

/// A few bytes in base64.
struct Encoded([u8; ENCODED_BYTES], usize);

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

fn encoded(bytes: &[u8]) -> Encoded {
    let mut text = [0; ENCODED_BYTES];
    let len = STANDARD.encode_slice(bytes, &mut text).expect("stamps and names have room");
    Encoded(text, len)
}

const KEY: &[u8] = br#"{"key":""#;
const VALUE: &[u8] = br#"","value":""#;
const END: &[u8] = br#""}"#;
/// Of 15 bytes.
const ENCODED_BYTES: usize = 20;
/// What stands around a value.
const BODY_BYTES_USUAL: usize = 1024;

const BODY_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{heard, said},
        *,
    };

    /// Puts, as its own length says, what a server decodes to the value of the key.
    #[test]
    fn a_put_is_json_of_the_length_that_it_says() {
        for len in [0, 4, 15, 16, 1000] {
            let values = Values::new(len);
            let text = said(&mut Etcd::new("a", values.clone()), &[Ask::Write(300)]);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            let decoded = |name: &str| STANDARD.decode(json[name].as_str().unwrap()).unwrap();
            assert_eq!(decoded("key"), b"key000000000300");
            assert_eq!(decoded("value").len(), len);
            assert!(values.matches(300, 0, &decoded("value")), "{len}");
        }
    }

    #[test]
    fn replies_are_checked_however_they_are_cut() {
        let speaker = || Etcd::new("a", Values::new(4));
        let reply = |body: &str| {
            let len = body.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{body}")
        };
        let found = |value: &[u8]| {
            let value = STANDARD.encode(value);
            reply(&format!(r#"{{"header":{{}},"kvs":[{{"key":"x","value":"{value}"}}]}}"#))
        };
        let missing = reply(r#"{"header":{"revision":"2"}}"#);
        let failed = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_owned();
        let text =
            [missing.clone(), found(b"c210"), found(b"d210"), found(b"c2100"), missing, failed];
        let read = Ask::Read(0x12c);
        let asks = [Ask::Write(300), read, read, read, read, read];
        let wanted = [
            Verdict::Good,
            Verdict::Good,
            Verdict::OtherBody,
            Verdict::OtherBody,
            Verdict::Missing,
            Verdict::Status(503),
        ];
        assert_eq!(heard(speaker, &asks, text.concat().as_bytes()).unwrap(), wanted);
    }

    /// A server of a few lines must not be able to fill the client's memory.
    #[test]
    fn a_reply_without_an_end_is_not_kept() {
        let mut speaker = Etcd::new("a", Values::new(4));
        let head = &mut &b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n"[..];
        assert_eq!(speaker.reply(head, Ask::Read(1)), Ok(None));
        for _ in 0..100 {
            assert_eq!(speaker.reply(&mut &[b'x'; 64 << 10][..], Ask::Read(1)), Ok(None));
        }
        assert!(speaker.body.capacity() < 1 << 20, "{}", speaker.body.capacity());
    }
}
