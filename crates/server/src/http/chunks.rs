//! The chunked transfer coding (RFC 9112, 7.1): where the payload is between its framing.
//!
//! ```text
//! 5;ext=1 CRLF hello CRLF 0 CRLF Trailer: x CRLF CRLF
//! ~~~~~~~~~~~~       ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~   framing, the rest is payload
//! ```

use super::{Fault, Status};

/// Finds the payload of a chunked body, fed in pieces that are cut anywhere.
///
/// It holds no byte of the body and copies none: it says what the next bytes are.
///
/// ```
/// use impasto_server::http::{Chunks, Piece};
/// let (mut chunks, mut payload) = (Chunks::new(), Vec::new());
/// let mut rest = &b"5\r\nhello\r\n0\r\n\r\nPOST"[..];
/// loop {
///     let bytes = match chunks.next(rest).expect("a chunked body") {
///         Piece::Framing(bytes) => bytes,
///         Piece::Payload(bytes) => {
///             payload.extend_from_slice(&rest[..bytes]);
///             bytes
///         }
///         Piece::End(bytes) => {
///             rest = &rest[bytes..];
///             break;
///         }
///     };
///     rest = &rest[bytes..];
/// }
/// assert_eq!((&payload[..], rest), (&b"hello"[..], &b"POST"[..]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    /// The size of the chunk, as far as it is known; then what is left of the chunk.
    left: u64,
    /// Bytes of the line with the size.
    line: usize,
    /// Bytes of all extensions and trailers.
    extra: usize,
}

/// What the next bytes of a chunked body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes are framing; 0 only if there were none.
    Framing(usize),
    /// So many bytes are payload, at least one.
    Payload(usize),
    /// So many bytes are framing, and with them the body ends.
    End(usize),
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A digit of the size; there are so many.
    Size(u32),
    /// Space between the size and an extension.
    Space,
    /// The rest of an extension.
    Extension,
    /// The line feed behind the size.
    SizeEnd,
    Payload,
    /// The line end behind the payload.
    PayloadEnd(LineEnd),
    /// A trailer, or the end.
    Trailer,
    /// The rest of a trailer.
    InTrailer,
    /// The line feed behind a trailer.
    TrailerEnd,
    /// The last line feed.
    Last,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Return,
    Feed,
}

/// 2^64 - 1 has so many.
const DIGITS_MAX: u32 = 16;
/// Most bytes of the line with the size, its end included.
const LINE_BYTES_MAX: usize = 256;
/// Most bytes of all extensions and trailers. RFC 9112, 7.1.1: their total ought to be limited.
const EXTRA_BYTES_MAX: usize = 16 << 10;

const SIZE: Fault =
    Fault::new(Status::BadRequest, "the size of a chunk is 1 to 16 hexadecimal digits");
const LINE: Fault =
    Fault::new(Status::BadRequest, "a line of a chunked body is visible text and ends with CR LF");
const LINE_TOO_LONG: Fault =
    Fault::new(Status::BadRequest, "the line with the size of a chunk is at most 256 bytes");
const CHUNK_END: Fault =
    Fault::new(Status::BadRequest, "a chunk is as long as it says and ends with CR LF");
const EXTRA_TOO_LONG: Fault =
    Fault::new(Status::HeadTooLong, "extensions and trailers of a body are at most 16 KiB");

impl Default for Chunks {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunks {
    /// Stands before a body.
    pub const fn new() -> Self {
        Self { state: State::Size(0), left: 0, line: 0, extra: 0 }
    }

    /// Returns what `bytes`, the next ones of the connection, start with. The caller goes on behind
    /// that. A line that is cut is framing so far: nothing has to be seen twice.
    ///
    /// # Errors
    /// [`Fault`]: where the body ends will never be known.
    ///
    /// # Panics
    /// If the body has ended.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, Fault> {
        assert!(self.state != State::Done, "the body has not ended");
        for (index, &byte) in bytes.iter().enumerate() {
            if self.state == State::Payload {
                return Ok(if index > 0 { Piece::Framing(index) } else { self.payload(bytes) });
            }
            self.framing(byte)?;
            if self.state == State::Done {
                return Ok(Piece::End(index + 1));
            }
        }
        Ok(Piece::Framing(bytes.len()))
    }

    /// Returns how much payload is still to come at least: what is left of the chunk.
    pub const fn left(&self) -> u64 {
        if matches!(self.state, State::Payload) { self.left } else { 0 }
    }

    fn payload(&mut self, bytes: &[u8]) -> Piece {
        let len = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.left -= len as u64;
        if self.left == 0 {
            self.state = State::PayloadEnd(LineEnd::Return);
        }
        Piece::Payload(len)
    }

    /// Takes a byte of the framing.
    fn framing(&mut self, byte: u8) -> Result<(), Fault> {
        self.state = match (self.state, byte) {
            (State::Size(digits), _) if byte.is_ascii_hexdigit() => {
                if digits == DIGITS_MAX {
                    return Err(SIZE);
                }
                self.left = self.left << 4 | u64::from(hex(byte));
                State::Size(digits + 1)
            }
            (State::Size(0), _) => return Err(SIZE),
            (State::Size(_) | State::Extension, b'\r') => State::SizeEnd,
            (State::Size(_) | State::Space, b';') => State::Extension,
            // 7.1.1: space may stand before the semicolon, though it should not.
            (State::Size(_) | State::Space, b' ' | b'\t') => State::Space,
            (State::Size(_), _) => return Err(SIZE),
            // No extension is known here, and what is not known is ignored (7.1.1).
            (State::Extension, _) if is_text(byte) => State::Extension,
            (State::SizeEnd, b'\n') if self.left == 0 => State::Trailer,
            (State::SizeEnd, b'\n') => State::Payload,
            (State::PayloadEnd(LineEnd::Return), b'\r') => State::PayloadEnd(LineEnd::Feed),
            (State::PayloadEnd(LineEnd::Feed), b'\n') => State::Size(0),
            (State::PayloadEnd(_), _) => return Err(CHUNK_END),
            // 7.1.2: trailers are dropped; where they end is all that matters.
            (State::Trailer, b'\r') => State::Last,
            (State::InTrailer, b'\r') => State::TrailerEnd,
            (State::Trailer | State::InTrailer, _) if is_text(byte) => State::InTrailer,
            (State::TrailerEnd, b'\n') => State::Trailer,
            (State::Last, b'\n') => State::Done,
            // 2.2: a bare CR or LF is no line end where another reader might think otherwise.
            _ => return Err(LINE),
        };
        self.count()
    }

    /// Counts the byte that led to the present state.
    fn count(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Size(0) => self.line = 0,
            State::Size(_) | State::SizeEnd => self.line += 1,
            State::Space | State::Extension => {
                self.line += 1;
                self.extra += 1;
            }
            State::Trailer | State::InTrailer | State::TrailerEnd | State::Last => self.extra += 1,
            State::Payload | State::PayloadEnd(_) | State::Done => {}
        }
        // The line feed is still to come.
        if self.line >= LINE_BYTES_MAX {
            return Err(LINE_TOO_LONG);
        }
        if self.extra > EXTRA_BYTES_MAX { Err(EXTRA_TOO_LONG) } else { Ok(()) }
    }
}

/// Returns true for what may stand in a line: visible, space, tabulator, or beyond ASCII (RFC 9110,
/// 5.5).
const fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
