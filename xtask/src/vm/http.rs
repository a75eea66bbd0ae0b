//! A client of HTTP that is told of one end of a connection only: that it broke.

use std::{
    fmt,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// A connection, kept alive.
#[derive(Debug)]
pub(super) struct Client {
    reader: BufReader<TcpStream>,
}

/// A reply.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    location: String,
    pub(super) body: Vec<u8>,
}

/// Why a client cannot go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection has ended, as it does when the server dies.
    Broken,
    /// The server did what it must not do, or nothing for too long.
    Wrong(String),
}

/// Longer than anything takes, on a busy machine as well.
const PATIENCE: Duration = Duration::from_secs(30);

impl Client {
    /// Connects to a port of this machine.
    pub(super) fn connect(port: u16) -> Result<Self, Trouble> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Sends a request and reads its reply.
    pub(super) fn ask(&mut self, line: &str, body: &[u8]) -> Result<Reply, Trouble> {
        self.send(&request(line, body))?;
        self.reply()
    }

    /// Sends requests, as they are.
    pub(super) fn send(&self, requests: &[u8]) -> Result<(), Trouble> {
        Ok(self.reader.get_ref().write_all(requests)?)
    }

    /// Reads a reply.
    pub(super) fn reply(&mut self) -> Result<Reply, Trouble> {
        let (mut reply, mut len) = (Reply::default(), 0);
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(Trouble::Broken);
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
                reply.status = number(status.split(' ').next().unwrap_or_default())?;
            } else if let Some((name, value)) = line.split_once(": ") {
                match name.to_ascii_lowercase().as_str() {
                    "location" => value.clone_into(&mut reply.location),
                    "content-length" => len = number(value)?,
                    _ => {}
                }
            }
        }
        reply.body.resize(len, 0);
        self.reader.read_exact(&mut reply.body)?;
        Ok(reply)
    }
}

impl Reply {
    /// Returns the body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the number that an append was given.
    pub(super) fn seq(&self) -> Result<u64, Trouble> {
        if self.status != 201 {
            let text = self.text();
            return Err(Trouble::Wrong(format!("an append: {} {}", self.status, text.trim())));
        }
        number(self.location.rsplit('/').next().unwrap_or_default())
    }

    /// Returns a number of a log's description.
    pub(super) fn field(&self, name: &str) -> Result<u64, Trouble> {
        let text = self.text();
        let value = text.split_once(&format!("\"{name}\":")).map_or("", |(_, rest)| rest);
        let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
        number(&digits)
    }
}

/// Returns a request in bytes.
pub(super) fn request(line: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{line} HTTP/1.1\r\nHost: guest\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Trouble> {
    text.parse().map_err(|_| Trouble::Wrong(format!("{text:?} is no number")))
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Self::Wrong(format!("the server has been silent for {PATIENCE:?}"))
            }
            _ => Self::Broken,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => write!(f, "the connection broke"),
            Self::Wrong(what) => write!(f, "{what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is not there must not be read as some other one.
    #[test]
    fn fields_of_a_description_are_found_by_name() {
        let body = br#"{"first":3,"next":14,"records":11,"bytes":0}"#.to_vec();
        let reply = Reply { status: 200, location: String::new(), body };
        assert_eq!((reply.field("first").unwrap(), reply.field("next").unwrap()), (3, 14));
        assert!(reply.field("last").is_err());
        assert!(reply.seq().is_err());
    }
}
