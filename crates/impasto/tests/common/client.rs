//! A client that checks what it is told: one connection, kept alive. It waits 30 s for the server
//! and no longer: a server that hangs fails the test instead of holding it up.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    sync::OnceLock,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

/// Longer than anything may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a value repeats: a prime, so that no block of it is another one.
const PERIOD: usize = 1_048_573;
const VALUE_BYTES_MAX: usize = 64 << 20;

/// Returns the bytes of value `number`: any two numbers below a million have others. All are parts
/// of one buffer, so that many can be sent and compared at once, without being made first.
pub(crate) fn value(number: u64, len: usize) -> &'static [u8] {
    static ALL: OnceLock<Vec<u8>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut period = Vec::with_capacity(PERIOD + 8);
        while period.len() < PERIOD {
            // xorshift64 (Marsaglia, 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            period.extend_from_slice(&state.to_le_bytes());
        }
        period.truncate(PERIOD);
        period.repeat((VALUE_BYTES_MAX / PERIOD) + 2)
    });
    let at = usize::try_from(number * 7_919 % PERIOD as u64).unwrap();
    &all[at..at + len]
}

#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) location: String,
    /// The server said that it closes the connection.
    pub(crate) closes: bool,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Returns the number that was given to what was appended.
    pub(crate) fn seq(&self) -> u64 {
        assert_eq!(self.status, 201, "{}", self.text());
        self.location.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// Returns a number of a log's description.
    pub(crate) fn number(&self, field: &str) -> u64 {
        let rest = self.text().split(&format!("\"{field}\":")).nth(1).unwrap();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }
}

/// A connection that is kept alive.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // A Unix socket, which passes for a TCP stream here, has no such option.
        let _tcp_alone = stream.set_nodelay(true);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // Half of a short head: a thousand of them are nothing.
        Self { reader: BufReader::with_capacity(1024, stream) }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream().write_all(bytes).map_err(in_time)
    }

    /// Sends the head of a request whose body has `len` bytes.
    pub(crate) fn send_head(&self, line: &str, len: usize) -> io::Result<()> {
        self.send(format!("{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n").as_bytes())
    }

    /// Sends a request.
    pub(crate) fn send_request(&self, line: &str, body: &[u8]) -> io::Result<()> {
        if body.len() > 64 << 10 {
            self.send_head(line, body.len())?;
            return self.send(body);
        }
        let head = format!("{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat())
    }

    /// Sends a request and reads its reply, also one that came before all was sent.
    ///
    /// # Errors
    /// The connection was broken.
    pub(crate) fn ask(&mut self, line: &str, body: &[u8]) -> io::Result<Reply> {
        match self.send_request(line, body) {
            Err(error) if !is_broken(&error) => Err(error),
            _ => self.reply(),
        }
    }

    /// Reads a reply.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let (mut reply, len) = self.reply_head()?;
        reply.body.resize(len, 0);
        self.reader.read_exact(&mut reply.body).map_err(in_time)?;
        Ok(reply)
    }

    /// Reads a reply up to its body; returns the length of that, too.
    pub(crate) fn reply_head(&mut self) -> io::Result<(Reply, usize)> {
        let (mut reply, mut len) = (Reply::default(), 0);
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).map_err(in_time)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
                reply.status = status[..3].parse().unwrap();
            } else if let Some(location) = line.strip_prefix("Location: ") {
                reply.location = location.into();
            } else if let Some(bytes) = line.strip_prefix("Content-Length: ") {
                len = bytes.parse().unwrap();
            } else if line.eq_ignore_ascii_case("connection: close") {
                reply.closes = true;
            } else if line.is_empty() {
                return Ok((reply, len));
            }
        }
    }

    /// Appends what must be taken, and returns its number.
    pub(crate) fn append(&mut self, log: &str, body: &[u8]) -> u64 {
        self.ask(&format!("POST /v1/logs/{log}"), body).unwrap().seq()
    }

    /// Asks for a record, and for nothing but the reply's head.
    pub(crate) fn ask_for(&self, log: &str, seq: u64) {
        self.send(format!("GET /v1/logs/{log}/{seq} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
            .unwrap();
    }

    /// Reads the reply to [`ask_for`](Self::ask_for), which has to be `expected`.
    pub(crate) fn is_given(&mut self, expected: &[u8]) {
        let (reply, len) = self.reply_head().unwrap();
        assert_eq!((reply.status, len), (200, expected.len()));
        let mut piece = vec![0; expected.len().min(256 << 10)];
        for expected in expected.chunks(256 << 10) {
            let piece = &mut piece[..expected.len()];
            self.reader.read_exact(piece).map_err(in_time).unwrap();
            assert!(piece == expected, "other bytes than were sent");
        }
    }

    /// Reads a record, which has to be `expected`.
    pub(crate) fn read_is(&mut self, log: &str, seq: u64, expected: &[u8]) {
        self.ask_for(log, seq);
        self.is_given(expected);
    }

    /// Trims a log, which has to succeed.
    pub(crate) fn trim(&mut self, log: &str, before: u64) {
        let reply = self.ask(&format!("DELETE /v1/logs/{log}?before={before}"), &[]).unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.number("first") >= before.min(reply.number("next")));
    }

    /// Trims all of a log, if there is one.
    pub(crate) fn trim_all(&mut self, log: &str) {
        let reply = self.ask(&format!("DELETE /v1/logs/{log}?before={}", u64::MAX), &[]).unwrap();
        assert!([200, 404].contains(&reply.status), "{}", reply.text());
        assert!(reply.status == 404 || reply.number("records") == 0);
    }

    /// Waits until the server closes the connection, and returns what it said before.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest).map_err(in_time) {
            Err(error) if !is_broken(&error) => panic!("{error}"),
            _ => String::from_utf8(rest).unwrap(),
        }
    }

    /// Returns true if the server has sent nothing that was not read, and has not closed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.stream().set_nonblocking(true).unwrap();
        let peeked = self.stream().peek(&mut [0]);
        self.stream().set_nonblocking(false).unwrap();
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Ends the connection with a reset, whatever is under way on it.
    pub(crate) fn reset(self) {
        set_socket_linger(self.stream(), Some(Duration::ZERO)).unwrap();
    }
}

/// A reply that does not come is what the tests look for, not an end of the connection.
fn in_time(error: io::Error) -> io::Error {
    let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!is_late, "the server has been silent for {PATIENCE:?}");
    error
}

fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
