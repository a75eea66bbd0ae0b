//! One connection of the client: bytes out, replies in, requests on the way.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read},
    mem,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
};

use crate::protocol::{Ask, Malformed, Outbox, Reply, Speaker};

/// A connection that is open, or about to be.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    speaker: Box<dyn Speaker>,
    /// What the kernel has not taken yet.
    unsent: Outbox,
    /// Requests without a reply, the oldest first.
    on_the_way: VecDeque<OnTheWay>,
    /// Replies that it has given to requests of the load.
    pub(crate) replied: u64,
}

#[derive(Clone, Copy, Debug)]
struct OnTheWay {
    ask: Ask,
    /// When it was meant to be sent.
    since: Instant,
    sent: Instant,
}

/// A request and its reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) ask: Ask,
    pub(crate) since: Instant,
    /// When the end of the reply had been read.
    pub(crate) at: Instant,
    pub(crate) reply: Reply,
    /// The words of a refusal.
    pub(crate) said: &'a str,
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
    /// Connects, and waits for it; `depth` requests can be on the way without an allocation.
    pub(crate) fn open(
        target: SocketAddr,
        speaker: Box<dyn Speaker>,
        depth: usize,
        limit: Duration,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, limit.max(Duration::from_millis(1)))?;
        stream.set_nonblocking(true)?;
        Self::new(stream, speaker, depth)
    }

    /// Starts to connect. What is written meanwhile is sent afterwards.
    pub(crate) fn begin(target: SocketAddr, speaker: Box<dyn Speaker>) -> io::Result<Self> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => Self::new(socket.into(), speaker, 1),
            Err(error) => Err(error.into()),
        }
    }

    fn new(stream: TcpStream, mut speaker: Box<dyn Speaker>, depth: usize) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut unsent = Outbox::default();
        let mut on_the_way = VecDeque::with_capacity(depth + 1);
        if speaker.hello(&mut unsent) {
            let now = Instant::now();
            on_the_way.push_back(OnTheWay { ask: Ask::Hello, since: now, sent: now });
        }
        Ok(Self { stream, speaker, unsent, on_the_way, replied: 0 })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns the number of requests of the load that are on the way.
    pub(crate) fn outstanding(&self) -> usize {
        let greets = self.on_the_way.front().is_some_and(|first| first.ask == Ask::Hello);
        self.on_the_way.len() - usize::from(greets)
    }

    /// Returns when the oldest request on the way was sent.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.on_the_way.front().map(|oldest| oldest.sent)
    }

    /// Adds requests, each with the time that it was meant for, to what is to be written, writes
    /// what the kernel takes, and returns how many bytes that were. The bytes are made in
    /// `scratch`, which is in the cache, as long as nothing is left over.
    pub(crate) fn ask(
        &mut self,
        asks: impl Iterator<Item = (Ask, Instant)>,
        now: Instant,
        scratch: &mut Outbox,
    ) -> u64 {
        let borrows = self.unsent.is_empty();
        if borrows {
            mem::swap(&mut self.unsent, scratch);
        }
        for (ask, since) in asks {
            self.speaker.ask(ask, &mut self.unsent);
            self.on_the_way.push_back(OnTheWay { ask, since, sent: now });
        }
        let written = self.write();
        if borrows && self.unsent.is_empty() {
            mem::swap(&mut self.unsent, scratch);
        }
        written
    }

    /// Writes what the kernel takes. If the peer has gone, reading tells, behind its last replies.
    pub(crate) fn write(&mut self) -> u64 {
        self.unsent.write(&mut self.stream).unwrap_or_else(|_| {
            self.unsent.clear();
            0
        })
    }

    /// Reads what is there, gives each reply to `done`, and adds to `received`. `ends` says that
    /// the peer has closed its side, and that all is to be read up to there. Returns true if there
    /// may be more: one peer that sends without end must not keep everything else waiting.
    pub(crate) fn read(
        &mut self,
        scratch: &mut [u8],
        ends: bool,
        received: &mut u64,
        mut done: impl FnMut(Exchange<'_>),
    ) -> Result<bool, Broken> {
        for _ in 0..READS_MAX {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Err(Broken::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(Broken::Failed(error)),
            };
            *received += read as u64;
            let mut bytes = &scratch[..read];
            // Of this read: what came before it was there before.
            let mut at = None;
            while !bytes.is_empty() {
                // Not even the start of a reply may come unasked: it would pass for the next one.
                let Some(OnTheWay { ask, since, .. }) = self.on_the_way.front().copied() else {
                    return Err(Broken::Unasked);
                };
                if let Some(reply) = self.speaker.reply(&mut bytes, ask)? {
                    self.on_the_way.pop_front();
                    self.replied += u64::from(ask != Ask::Hello);
                    let at = *at.get_or_insert_with(Instant::now);
                    done(Exchange { ask, since, at, reply, said: self.speaker.said() });
                }
            }
            // Less than there was room for is all there was; what comes later is a new event.
            if read < scratch.len() && !ends {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// So often is read from one connection before the others have their turn.
const READS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpListener};

    use super::*;
    use crate::{client::Work, protocol::Request};

    /// A peer that sends faster than it is read would keep all others waiting; and replies that
    /// are read one after the other would all have the time of the first.
    #[test]
    fn a_flood_is_read_in_parts_and_each_part_has_its_time() {
        const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        const COUNT: usize = 100;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let work = Work::Same(Request::new("GET", "a", "/", b""));
        let patience = Duration::from_secs(10);
        let mut connection =
            Connection::open(target, work.speaker(target), COUNT, patience).unwrap();
        let now = Instant::now();
        let asks = (0..COUNT).map(|_| (Ask::Same, now));
        connection.ask(asks, now, &mut Outbox::default());
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(&REPLY.repeat(COUNT)).unwrap();
        connection.stream.set_nonblocking(false).unwrap();
        while connection.stream.peek(&mut [0; 2 * READS_MAX * REPLY.len()]).unwrap()
            < (READS_MAX + 1) * REPLY.len()
        {}
        connection.stream.set_nonblocking(true).unwrap();
        let (mut scratch, mut received, mut times) = (REPLY.to_vec(), 0, Vec::new());
        let read = connection.read(&mut scratch, false, &mut received, |done| times.push(done.at));
        assert!(read.unwrap());
        assert_eq!((received, times.len()), ((READS_MAX * REPLY.len()) as u64, READS_MAX));
        assert!(times.is_sorted_by(|earlier, later| earlier < later));
    }
}
