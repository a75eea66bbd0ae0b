//! A few words with a server, one after the other: is it there, and what is it set to?

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::cli::Failure;

/// A connection on which one thing is said at a time.
#[derive(Debug)]
pub(super) struct Talk {
    stream: TcpStream,
    /// What has come and was not taken.
    heard: Vec<u8>,
}

impl Talk {
    pub(super) fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, heard: Vec::new() })
    }

    pub(super) fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Says `words` and a line's end, and returns the line that is the answer.
    pub(super) fn ask(&mut self, words: &str) -> Result<String, Failure> {
        self.say(format!("{words}\r\n").as_bytes())?;
        self.line()
    }

    /// Returns the next line, without its end.
    pub(super) fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line = self.bytes(end + 1)?;
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.hear()?;
        }
    }

    /// Returns the next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        while self.heard.len() < count {
            self.hear()?;
        }
        let rest = self.heard.split_off(count);
        Ok(std::mem::replace(&mut self.heard, rest))
    }

    /// Returns all that comes until the other side closes.
    pub(super) fn rest(mut self) -> Result<String, Failure> {
        self.stream.read_to_end(&mut self.heard)?;
        Ok(String::from_utf8_lossy(&self.heard).into_owned())
    }

    fn hear(&mut self) -> Result<(), Failure> {
        let mut scratch = [0; 4096];
        let read = self.stream.read(&mut scratch)?;
        if self.heard.len() > HEARD_MAX || read == 0 {
            return Err("no answer that this understands".into());
        }
        self.heard.extend_from_slice(&scratch[..read]);
        Ok(())
    }
}

/// Returns the answer, head and body, to a request of HTTP.
pub(super) fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String, Failure> {
    let mut talk = Talk::open(address)?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    talk.say(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
    let answer = talk.rest()?;
    match answer.lines().next() {
        Some(line) if line.contains(" 200 ") => Ok(answer),
        line => Err(format!("{path}: {}", line.unwrap_or("no answer")).into()),
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
const HEARD_MAX: usize = 1 << 20;
