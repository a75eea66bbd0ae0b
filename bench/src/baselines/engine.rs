//! What all variants share: one thread that waits by epoll, and serves all connections in turns.
//!
//! ```text
//! turn:  epoll_wait -> of each ready connection: one read, parse, append
//!        -> persist -> one write for each connection with replies
//! ```
//!
//! It does for an append what Impasto does, and no more: nothing for slow or broken clients, and it
//! recovers nothing.

use std::{
    convert::Infallible,
    mem,
    net::TcpListener,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use impasto::region::Checksum;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt},
};

use super::{
    http::{self, Head, Parsed},
    logs::{Logs, Place},
    record::Record,
};
use crate::{
    cli::Failure,
    stages::{Stage, Stages},
};

/// What one baseline does otherwise than the others.
pub(super) trait Variant: Sized {
    /// True: each request is made durable, and answered, before the next one is looked at.
    const EACH: bool = false;
    /// What it knows of a connection.
    type State: Default;

    /// Writes down a record; returns what it will find its value by.
    fn append(&mut self, record: &Record<'_>, stages: &mut Stages) -> Result<u64, Failure>;

    /// Makes durable what was appended since the last time.
    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure>;

    /// Copies the value at `place` to `out`; returns false if something newer is there.
    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure>;

    /// May begin anew where it began: all logs are empty.
    fn empty(&mut self) {}

    /// Receives once from a connection, and does what has come.
    fn take(
        engine: &mut Engine<Self>,
        connection: &mut Connection<Self::State>,
    ) -> Result<Taken, Failure> {
        engine.take(connection)
    }

    /// Sends replies; returns false if the connection is over.
    fn send(&mut self, connection: &mut Connection<Self::State>) -> bool {
        connection.send()
    }

    /// Looks at what the kernel reports of a connection beside the stream.
    fn look_at_errors(&mut self, _connection: &mut Connection<Self::State>) {}
}

/// What came of receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The connection goes on.
    GoesOn,
    /// It has ended, or makes no sense.
    Over,
}

/// A variant at work.
#[derive(Debug)]
pub(super) struct Engine<V> {
    pub(super) variant: V,
    pub(super) stages: Stages,
    pub(super) logs: Logs,
    pub(super) received: Vec<u8>,
    /// Requests since the last replies.
    pub(super) answered: u64,
}

/// A client, and what is between a turn and the next.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) stream: OwnedFd,
    pub(super) replies: Vec<u8>,
    pub(super) state: S,
    /// The beginning of a request, and how many bytes of it are known to be missing.
    pub(super) rest: Vec<u8>,
    pub(super) missing: usize,
    /// It takes no more replies: nothing is received until it does.
    is_full: bool,
}

impl<V: Variant> Engine<V> {
    pub(super) fn new(variant: V, stages: Stages) -> Self {
        let (logs, received) = (Logs::default(), vec![0; RECEIVE_BYTES]);
        Self { variant, stages, logs, received, answered: 0 }
    }

    /// Serves who connects to `listener`.
    pub(super) fn serve(mut self, listener: &TcpListener) -> Result<Infallible, Failure> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let accepts = number(listener.as_fd());
        epoll::add(&epoll, listener, EventData::new_u64(accepts as u64), EventFlags::IN)?;
        let mut connections: Vec<Option<Connection<V::State>>> = Vec::new();
        let (mut events, mut ready) = (Vec::with_capacity(EVENTS), Vec::new());
        loop {
            events.clear();
            if let Err(error) = epoll::wait(&epoll, spare_capacity(&mut events), None)
                && error != Errno::INTR
            {
                return Err(error.into());
            }
            self.stages.charge(Stage::Wait);
            for event in &events {
                let at = usize::try_from(event.data.u64())?;
                if at == accepts {
                    accept(listener, &epoll, &mut connections)?;
                    continue;
                }
                let Some(connection) = &mut connections[at] else { continue };
                let flags = event.flags;
                if flags.contains(EventFlags::ERR) {
                    self.variant.look_at_errors(connection);
                }
                if flags == EventFlags::ERR {
                    continue;
                }
                if connection.is_full || V::take(&mut self, connection)? == Taken::GoesOn {
                    ready.push(at);
                } else {
                    connections[at] = None;
                }
            }
            self.persist()?;
            for at in ready.drain(..) {
                let Some(connection) = &mut connections[at] else { continue };
                if self.variant.send(connection) {
                    connection.watch(&epoll)?;
                } else {
                    connections[at] = None;
                }
            }
            self.stages.charge(Stage::Reply);
        }
    }

    /// Makes durable what was appended, and counts what can be answered now.
    fn persist(&mut self) -> Result<(), Failure> {
        self.variant.persist(&mut self.stages)?;
        self.stages.answered(mem::take(&mut self.answered));
        Ok(())
    }

    /// Receives once: behind the beginning of a request, if there is one, straight into it if it is
    /// long.
    pub(super) fn take(&mut self, connection: &mut Connection<V::State>) -> Result<Taken, Failure> {
        let mut rest = mem::take(&mut connection.rest);
        if rest.len() + connection.missing >= RECEIVE_BYTES {
            rest.reserve(connection.missing);
            let count = recv(&connection.stream, spare_capacity(&mut rest), RecvFlags::empty());
            self.stages.charge(Stage::Receive);
            let (taken, done) = match count {
                Ok((_, 0)) => (Taken::Over, 0),
                Ok(_) => self.answer_all(connection, &rest)?,
                Err(error) => (Taken::of(error), 0),
            };
            rest.drain(..done);
            connection.rest = rest;
            return Ok(taken);
        }
        let mut received = mem::take(&mut self.received);
        received[..rest.len()].copy_from_slice(&rest);
        let count = recv(&connection.stream, &mut received[rest.len()..], RecvFlags::empty());
        self.stages.charge(Stage::Receive);
        let mut taken = Taken::Over;
        match count {
            Ok((_, 0)) => {}
            Ok((_, count)) => {
                let bytes = &received[..rest.len() + count];
                let done;
                (taken, done) = self.answer_all(connection, bytes)?;
                rest.clear();
                rest.extend_from_slice(&bytes[done..]);
            }
            Err(error) => taken = Taken::of(error),
        }
        connection.rest = rest;
        self.received = received;
        Ok(taken)
    }

    /// Does what a connection has begun with, and keeps the rest.
    pub(super) fn answer_first(
        &mut self,
        connection: &mut Connection<V::State>,
        bytes: &[u8],
    ) -> Result<Taken, Failure> {
        let (taken, done) = self.answer_all(connection, bytes)?;
        connection.rest.extend_from_slice(&bytes[done..]);
        Ok(taken)
    }

    /// Does all requests that are whole; returns how many bytes they are.
    fn answer_all(
        &mut self,
        connection: &mut Connection<V::State>,
        bytes: &[u8],
    ) -> Result<(Taken, usize), Failure> {
        let mut done = 0;
        connection.missing = 0;
        while done < bytes.len() {
            let head = match http::parse(&bytes[done..]) {
                Parsed::Head(head) => head,
                Parsed::Part if bytes.len() - done < HEAD_MAX => break,
                Parsed::Part | Parsed::Bad => return Ok((Taken::Over, done)),
            };
            let end = done + head.len + head.body_len;
            let Some(body) = bytes.get(done + head.len..end) else {
                connection.missing = end - bytes.len();
                break;
            };
            self.stages.charge(Stage::Parse);
            if self.answer(head, body, &mut connection.replies)? == Taken::Over {
                return Ok((Taken::Over, done));
            }
            done = end;
            if V::EACH {
                self.persist()?;
                if !self.variant.send(connection) {
                    return Ok((Taken::Over, done));
                }
                self.stages.charge(Stage::Reply);
            }
        }
        Ok((Taken::GoesOn, done))
    }

    /// Does a request.
    pub(super) fn answer(
        &mut self,
        head: Head<'_>,
        body: &[u8],
        replies: &mut Vec<u8>,
    ) -> Result<Taken, Failure> {
        self.answered += 1;
        match head.method {
            "POST" => self.append(head.path, body, replies)?,
            "GET" => self.read(head.path, replies)?,
            "DELETE" => self.trim(head.path, replies)?,
            _ => return Ok(Taken::Over),
        }
        Ok(Taken::GoesOn)
    }

    fn append(&mut self, path: &str, value: &[u8], replies: &mut Vec<u8>) -> Result<(), Failure> {
        self.open(path)?;
        let log = self.logs.find(path).expect("it is open");
        let (seq, checksum) = (log.next(), Checksum::of(value));
        let record = Record::Append { log: log.number, seq, checksum, value };
        let at = self.variant.append(&record, &mut self.stages)?;
        self.note(path, Place::new(at, checksum, value.len()), replies);
        Ok(())
    }

    /// Notes a value that the variant has written down, and answers.
    pub(super) fn note(&mut self, path: &str, place: Place, replies: &mut Vec<u8>) {
        let log = self.logs.find(path).expect("it was opened before");
        let seq = log.next();
        log.records.push_back(place);
        self.stages.charge(Stage::Copy);
        http::created(replies, path, seq, place.checksum);
    }

    /// Makes the log at `path`, if there is none.
    pub(super) fn open(&mut self, path: &str) -> Result<(), Failure> {
        if self.logs.find(path).is_none() {
            let log = self.logs.create(path);
            let name = path.rsplit('/').next().unwrap_or(path);
            self.variant.append(&Record::Log { log, name }, &mut self.stages)?;
        }
        Ok(())
    }

    fn read(&mut self, path: &str, replies: &mut Vec<u8>) -> Result<(), Failure> {
        let record = path.rsplit_once('/').and_then(|(log, seq)| {
            let seq = seq.parse().ok()?;
            Some((seq, self.logs.find(log)?.record(seq)?))
        });
        let start = replies.len();
        if let Some((seq, place)) = record {
            http::found(replies, seq, place.checksum, u64::from(place.len));
            if self.variant.read(place, replies)? {
                return Ok(());
            }
            replies.truncate(start);
        }
        http::missing(replies);
        Ok(())
    }

    fn trim(&mut self, target: &str, replies: &mut Vec<u8>) -> Result<(), Failure> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let before = query.strip_prefix("before=").and_then(|before| before.parse().ok());
        let (Some(log), Some(before)) = (self.logs.find(path), before) else {
            http::missing(replies);
            return Ok(());
        };
        let first = log.trim(before);
        self.variant.append(&Record::Trim { log: log.number, first }, &mut self.stages)?;
        http::trimmed(replies, first, log.next(), log.bytes());
        if self.logs.are_empty() {
            self.variant.empty();
        }
        Ok(())
    }
}

impl<S> Connection<S> {
    /// Sends what the kernel takes of the replies; returns false if the connection is over.
    pub(super) fn send(&mut self) -> bool {
        if self.replies.is_empty() {
            return true;
        }
        match send(&self.stream, &self.replies, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.replies.len() => self.replies.clear(),
            Ok(sent) => drop(self.replies.drain(..sent)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Waits for what is next: for requests, or, as long as there are replies, for room for them.
    fn watch(&mut self, epoll: &OwnedFd) -> Result<(), Failure> {
        if self.is_full == self.replies.is_empty() {
            self.is_full = !self.is_full;
            let wanted = if self.is_full { EventFlags::OUT } else { EventFlags::IN };
            let name = EventData::new_u64(number(self.stream.as_fd()) as u64);
            epoll::modify(epoll, &self.stream, name, wanted)?;
        }
        Ok(())
    }
}

impl Taken {
    pub(super) fn of(error: Errno) -> Self {
        if matches!(error, Errno::AGAIN | Errno::INTR) { Self::GoesOn } else { Self::Over }
    }
}

/// Accepts all who wait.
fn accept<S: Default>(
    listener: &TcpListener,
    epoll: &OwnedFd,
    connections: &mut Vec<Option<Connection<S>>>,
) -> Result<(), Failure> {
    while let Ok(stream) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        sockopt::set_tcp_nodelay(&stream, true)?;
        let at = number(stream.as_fd());
        epoll::add(epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
        connections.resize_with(connections.len().max(at + 1), || None);
        let (replies, rest, state) = (Vec::new(), Vec::new(), S::default());
        connections[at] =
            Some(Connection { stream, replies, state, rest, missing: 0, is_full: false });
    }
    Ok(())
}

fn number(fd: BorrowedFd<'_>) -> usize {
    usize::try_from(fd.as_raw_fd()).expect("a descriptor is not negative")
}

/// Connections that a turn serves at most: as many completions as a ring of Impasto's can hold.
const EVENTS: usize = 1024;
/// What one read takes: as much as one of Impasto's landing buffers.
const RECEIVE_BYTES: usize = 256 << 10;
/// The longest head.
const HEAD_MAX: usize = 16 << 10;
