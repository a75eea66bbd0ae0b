//! Where replies of HTTP/1 begin and end.

use std::mem;

use crate::protocol::Malformed;

/// The replies of one connection, while they come in.
#[derive(Debug)]
pub(crate) struct Replies {
    state: State,
    /// The beginning of a head that was cut.
    cut: Vec<u8>,
}

/// What a reply begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// True if the server will close the connection behind it.
    pub(crate) closes: bool,
}

impl Default for Replies {
    fn default() -> Self {
        Self { state: State::Head, cut: Vec::with_capacity(HEAD_BYTES_USUAL) }
    }
}

impl Replies {
    /// Takes bytes from the front of `bytes` until a reply is complete, and gives those of its body
    /// to `body`. `None`: all were taken.
    ///
    /// # Errors
    /// What makes the rest of the connection worthless.
    pub(crate) fn next(
        &mut self,
        bytes: &mut &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<Option<Head>, Malformed> {
        loop {
            let head = match &mut self.state {
                State::Head => {
                    let Some(found) = self.take_head(bytes)? else { return Ok(None) };
                    // An interim answer: the real one follows.
                    if found.head.status >= 200 {
                        self.state = match found.body {
                            Body::Sized(left) => State::Sized { head: found.head, left },
                            Body::Chunked => State::Chunked(found.head, Chunks::default()),
                        };
                    }
                    continue;
                }
                State::Sized { head, left } => {
                    take_body(bytes, left, &mut body);
                    if *left > 0 {
                        return Ok(None);
                    }
                    *head
                }
                State::Chunked(head, chunks) => {
                    if !chunks.take(bytes, &mut body)? {
                        return Ok(None);
                    }
                    *head
                }
            };
            self.state = State::Head;
            return Ok(Some(head));
        }
    }

    fn take_head(&mut self, bytes: &mut &[u8]) -> Result<Option<Found>, Malformed> {
        if self.cut.is_empty() {
            if let Some(found) = Found::parse(bytes)? {
                *bytes = &bytes[found.len..];
                return Ok(Some(found));
            }
            self.cut.extend_from_slice(mem::take(bytes));
        } else {
            let before = self.cut.len();
            let room = bytes.len().min(HEAD_BYTES_MAX + 1);
            self.cut.extend_from_slice(&bytes[..room]);
            if let Some(found) = Found::parse(&self.cut)? {
                *bytes = &bytes[found.len - before..];
                self.cut.clear();
                return Ok(Some(found));
            }
            *bytes = &[];
        }
        if self.cut.len() > HEAD_BYTES_MAX { Err(Malformed::HeadTooLong) } else { Ok(None) }
    }
}

#[derive(Debug)]
enum State {
    Head,
    Sized { head: Head, left: u64 },
    Chunked(Head, Chunks),
}

/// A head, and where what follows it ends.
struct Found {
    head: Head,
    len: usize,
    body: Body,
}

#[derive(Clone, Copy)]
enum Body {
    Sized(u64),
    Chunked,
}

impl Found {
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
        let (mut length, mut chunked, mut closes) = (None, false, text.starts_with("HTTP/1.0"));
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let found: u64 = value.parse().map_err(|_| Malformed::Length)?;
                if length.replace(found).is_some_and(|before| before != found) {
                    return Err(Malformed::Length);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.eq_ignore_ascii_case("close");
            }
        }
        // RFC 9110, 8.6: these have no body, whatever they say.
        let body = if status < 200 || status == 204 || status == 304 {
            Body::Sized(0)
        } else if chunked {
            Body::Chunked
        } else {
            Body::Sized(length.ok_or(Malformed::Length)?)
        };
        Ok(Some(Self { head: Head { status, closes }, len: end + 4, body }))
    }
}

fn status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let number = rest.get(..3)?.parse().ok()?;
    (100..600).contains(&number).then_some(number)
}

fn take_body(bytes: &mut &[u8], left: &mut u64, body: &mut impl FnMut(&[u8])) {
    let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    let (piece, rest) = bytes.split_at(here);
    if !piece.is_empty() {
        body(piece);
    }
    *left -= here as u64;
    *bytes = rest;
}

/// A body in chunks (RFC 9112, 7.1); extensions and trailers are passed over.
#[derive(Debug, Default)]
struct Chunks {
    part: Part,
    /// Digits of the length, or bytes of the line.
    seen: u32,
    left: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Length,
    Extension,
    Bytes,
    End,
    Trailer,
}

impl Chunks {
    /// Returns true when the last of it was taken.
    fn take(&mut self, bytes: &mut &[u8], body: &mut impl FnMut(&[u8])) -> Result<bool, Malformed> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.part == Part::Bytes {
                take_body(bytes, &mut self.left, body);
                if self.left == 0 {
                    self.enter(Part::End);
                }
                continue;
            }
            *bytes = rest;
            if *first == b'\n' {
                match self.part {
                    // An empty line is no length, and so not the last one either.
                    Part::Length if self.seen == 0 => return Err(Malformed::Chunk),
                    Part::Trailer if self.seen == 0 => return Ok(true),
                    Part::Trailer => self.enter(Part::Trailer),
                    Part::End => self.enter(Part::Length),
                    _ if self.left > 0 => self.enter(Part::Bytes),
                    _ => self.enter(Part::Trailer),
                }
            } else if *first != b'\r' {
                self.inside_of_a_line(*first)?;
            }
        }
        Ok(false)
    }

    fn inside_of_a_line(&mut self, byte: u8) -> Result<(), Malformed> {
        match self.part {
            Part::Length => match char::from(byte).to_digit(16) {
                Some(digit) if self.seen < 15 => {
                    self.left = self.left * 16 + u64::from(digit);
                    self.seen += 1;
                }
                None if self.seen > 0 => self.part = Part::Extension,
                _ => return Err(Malformed::Chunk),
            },
            Part::End => return Err(Malformed::Chunk),
            _ => self.seen = self.seen.saturating_add(1),
        }
        Ok(())
    }

    fn enter(&mut self, part: Part) {
        (self.part, self.seen) = (part, 0);
    }
}

/// Of a head that is cut so many bytes can be kept without an allocation.
const HEAD_BYTES_USUAL: usize = 1024;
const HEAD_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    type Whole = (u16, bool, Vec<u8>);

    fn all(pieces: &[&[u8]]) -> Result<Vec<Whole>, Malformed> {
        let mut replies = Replies::default();
        let (mut found, mut body) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut rest = *piece;
            while let Some(head) = replies.next(&mut rest, |piece| body.extend_from_slice(piece))? {
                found.push((head.status, head.closes, mem::take(&mut body)));
            }
            assert!(rest.is_empty());
        }
        Ok(found)
    }

    const FOUR: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA;ext\r\n0123456789\r\n1\r\nx\r\n\
        0\r\nX: y\r\n\r\n\
        HTTP/1.1 100 Continue\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

    /// A client that reads on only at the edges of packets measures its own luck.
    #[test]
    fn replies_are_the_same_however_they_are_cut() {
        let whole = all(&[FOUR]).unwrap();
        let body = |text: &str| text.as_bytes().to_vec();
        let wanted = [
            (201, false, body("")),
            (200, false, body("0123456789x")),
            (204, false, body("")),
            (200, true, body("hello")),
        ];
        assert_eq!(whole, wanted);
        for cut in 0..=FOUR.len() {
            assert_eq!(all(&[&FOUR[..cut], &FOUR[cut..]]).unwrap(), whole, "{cut}");
        }
        let bytes: Vec<&[u8]> = FOUR.chunks(1).collect();
        assert_eq!(all(&bytes).unwrap(), whole);
    }

    #[test]
    fn what_is_no_reply_is_named() {
        let found = |text: &[u8]| all(&[text]).unwrap_err();
        assert_eq!(found(b"SSH-2.0"), Malformed::StatusLine);
        assert_eq!(found(b"HTTP/1.1 2xx no\r\n\r\n"), Malformed::StatusLine);
        assert_eq!(found(b"HTTP/1.1 200 OK\r\n\r\n"), Malformed::Length);
        assert_eq!(found(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), Malformed::Length);
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(found(two), Malformed::Length);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in ["\r\n\r\n", "x\r\n", "1\r\nab\r\n", "ffffffffffffffffff\r\n"] {
            assert_eq!(found([chunked, bad].concat().as_bytes()), Malformed::Chunk, "{bad}");
        }
        let endless = [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; HEAD_BYTES_MAX]].concat();
        assert_eq!(found(&endless), Malformed::HeadTooLong);
        let pieces: Vec<&[u8]> = endless.chunks(1000).collect();
        assert_eq!(all(&pieces), Err(Malformed::HeadTooLong));
    }
}
