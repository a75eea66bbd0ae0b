//! One connection of the client: bytes out, replies in, requests on the way.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::http::{Malformed, Replies, Reply, Request};

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    replies: Replies,
    /// When the requests without a reply were sent, the oldest first.
    sent_at: VecDeque<Instant>,
    /// How far into a request the bytes go that were written.
    at: usize,
    /// Bytes that are still to be written.
    unsent: usize,
    /// Replies that it has given.
    pub(crate) replied: u64,
}

/// A request and its reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    pub(crate) sent: Instant,
    pub(crate) reply: Reply,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the server has closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Failed(io::Error),
    #[error("what came is no reply: {0}")]
    Malformed(#[from] Malformed),
    #[error("a reply came that nobody had asked for")]
    Unasked,
}

impl Connection {
    /// Connects; `depth` requests can be on the way without an allocation.
    pub(crate) fn open(target: SocketAddr, depth: usize, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, limit.max(Duration::from_millis(1)))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            replies: Replies::default(),
            sent_at: VecDeque::with_capacity(depth),
            at: 0,
            unsent: 0,
            replied: 0,
        })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns the number of requests on the way.
    pub(crate) fn outstanding(&self) -> usize {
        self.sent_at.len()
    }

    /// Returns when the oldest request on the way was sent.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.sent_at.front().copied()
    }

    /// Adds `count` requests to what is to be written.
    pub(crate) fn ask(&mut self, request: &Request, count: usize, now: Instant) {
        self.unsent += count * request.len_bytes();
        self.sent_at.extend(std::iter::repeat_n(now, count));
    }

    /// Writes what the kernel takes. If the peer has gone, reading tells, behind its last replies.
    pub(crate) fn write(&mut self, request: &Request) {
        while self.unsent > 0 {
            let bytes = request.from(self.at);
            match self.stream.write(&bytes[..bytes.len().min(self.unsent)]) {
                Ok(written) => {
                    self.unsent -= written;
                    self.at = (self.at + written) % request.len_bytes();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.unsent = 0,
            }
        }
    }

    /// Reads what is there and gives each reply to `done`. `ends` says that the peer has closed its
    /// side, and that all is to be read up to there.
    pub(crate) fn read(
        &mut self,
        request: &Request,
        scratch: &mut [u8],
        ends: bool,
        mut done: impl FnMut(Exchange),
    ) -> Result<(), Broken> {
        loop {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Err(Broken::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Broken::Failed(error)),
            };
            let mut bytes = &scratch[..read];
            while !bytes.is_empty() {
                // Not even the start of a reply may come unasked: it would pass for the next one.
                if self.sent_at.is_empty() {
                    return Err(Broken::Unasked);
                }
                if let Some(reply) = self.replies.next(&mut bytes, request.expected())? {
                    let sent = self.sent_at.pop_front().expect("checked above");
                    self.replied += 1;
                    done(Exchange { sent, reply });
                }
            }
            // Less than there was room for is all there was; what comes later is a new event.
            if read < scratch.len() && !ends {
                return Ok(());
            }
        }
    }
}
