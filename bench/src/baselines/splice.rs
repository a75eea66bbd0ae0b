//! From the socket to the file without a copy to this process: the head is read, the body spliced
//! through a pipe, and each turn ends with one `fdatasync`. This is what was asked after the talk
//! (netdev 2.2): does `splice` not do all that?
//!
//! ```text
//! append: peek and parse the head -> splice socket -> pipe -> file -> write header and head
//! ```
//!
//! A value that is never looked at has no checksum: the one in record and reply is 0, and a crash
//! in the middle of a value could not be noticed. The kernel copies each value all the same, from
//! the packet to the page cache. The file is written beforehand.

use std::{
    convert::Infallible,
    io::IoSlice,
    mem,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use impasto::region::{Region, layout::MediumKind};
use rustix::{
    fs::fdatasync,
    io::{Errno, pwritev},
    net::{RecvFlags, recv},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::{
    Start,
    engine::{Connection, Engine, Taken, Variant},
    http::{self, Parsed},
    logs::Place,
    record::{HEAD, HEADER, Head, Open, Record},
};
use crate::{
    cli::Failure,
    stages::{Stage, Stages},
};

#[derive(Debug)]
struct Spliced {
    region: Region,
    pipe: (OwnedFd, OwnedFd),
    open: Open,
    /// Where the next commit goes, in the log: it grows over all rounds.
    next: u64,
    capacity: u64,
    is_dirty: bool,
}

/// A body on its way into the file.
#[derive(Debug)]
struct Body {
    path: String,
    commit_at: u64,
    done: usize,
    len: usize,
}

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    let region = start.region(MediumKind::Disk)?;
    let capacity = start.geometry.region_bytes() - 2 * BLOCK;
    let pipe = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&pipe.0, PIPE_BYTES)?;
    let open = Open::new();
    start.serve(Spliced { region, pipe, open, next: 0, capacity, is_dirty: false })
}

impl Variant for Spliced {
    type State = Option<Body>;

    fn take(
        engine: &mut Engine<Self>,
        connection: &mut Connection<Self::State>,
    ) -> Result<Taken, Failure> {
        loop {
            let taken = match connection.state.take() {
                None => take_head(engine, connection),
                Some(body) => take_body(engine, connection, body),
            };
            if let Some(taken) = taken? {
                return Ok(taken);
            }
        }
    }

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        let (head, body) = (record.head(), record.body());
        let at = self.reserve(body.len());
        self.write(&head, body.len(), body, at)?;
        Ok(at + (HEADER + HEAD) as u64)
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        if self.is_dirty {
            fdatasync(self.region.file())?;
            stages.charge(Stage::Fence);
            self.is_dirty = false;
        }
        Ok(())
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        let is_there = self.next <= place.at + self.capacity;
        if is_there {
            let start = out.len();
            out.resize(start + place.len as usize, 0);
            self.region.file().read_exact_at(&mut out[start..], self.offset(place.at))?;
        }
        Ok(is_there)
    }
}

impl Spliced {
    /// Sets room aside for a commit of one record.
    fn reserve(&mut self, body_len: usize) -> u64 {
        let len = (HEADER + HEAD + body_len).next_multiple_of(HEADER) as u64;
        if self.next % self.capacity + len > self.capacity {
            self.next = self.next.next_multiple_of(self.capacity);
        }
        let at = self.next;
        self.next += len;
        at
    }

    /// Writes a record; of its body what is not in the file yet.
    fn write(
        &mut self,
        head: &Head,
        body_len: usize,
        missing: &[u8],
        at: u64,
    ) -> Result<(), Failure> {
        self.open.add(head, body_len);
        let header = self.open.seal(at);
        let parts = [&header, head.bytes(), missing].map(IoSlice::new);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if pwritev(self.region.file(), &parts, self.offset(at))? < len {
            return Err("a write was cut short".into());
        }
        self.is_dirty = true;
        Ok(())
    }

    /// Brings what has come of `body` to the file; returns how many bytes that is, or what the
    /// socket says instead.
    fn move_on(&mut self, socket: &OwnedFd, body: &Body) -> Result<Result<usize, Errno>, Failure> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let (read, write) = &self.pipe;
        let taken = match splice(socket, None, write, None, body.len - body.done, flags) {
            Ok(taken) => taken,
            Err(error) => return Ok(Err(error)),
        };
        let mut at = self.offset(body.commit_at) + (HEADER + HEAD + body.done) as u64;
        let mut left = taken;
        while left > 0 {
            let file = self.region.file();
            left -= splice(read, None, file, Some(&mut at), left, SpliceFlags::MOVE)?;
        }
        Ok(Ok(taken))
    }

    fn offset(&self, at: u64) -> u64 {
        BLOCK + at % self.capacity
    }
}

/// Takes the head of a request from a connection. `None`: there may be more.
fn take_head(
    engine: &mut Engine<Spliced>,
    connection: &mut Connection<Option<Body>>,
) -> Result<Option<Taken>, Failure> {
    let mut received = mem::take(&mut engine.received);
    let taken = peek_head(engine, connection, &mut received);
    engine.received = received;
    taken
}

fn peek_head(
    engine: &mut Engine<Spliced>,
    connection: &mut Connection<Option<Body>>,
    received: &mut [u8],
) -> Result<Option<Taken>, Failure> {
    let peek = |bytes: &mut [u8]| match recv(&connection.stream, bytes, RecvFlags::PEEK) {
        Ok((_, 0)) => Err(Taken::Over),
        Ok((_, count)) => Ok(count),
        Err(error) => Err(Taken::of(error)),
    };
    // Of what is spliced nothing should be copied first: no more than most heads take.
    let mut count = match peek(&mut received[..HEAD_USUAL]) {
        Ok(count) => count,
        Err(taken) => return Ok(Some(taken)),
    };
    if count == HEAD_USUAL && matches!(http::parse(&received[..count]), Parsed::Part) {
        count = match peek(&mut received[..HEAD_MAX]) {
            Ok(count) => count,
            Err(taken) => return Ok(Some(taken)),
        };
    }
    engine.stages.charge(Stage::Receive);
    let head = match http::parse(&received[..count]) {
        Parsed::Head(head) => head,
        Parsed::Part if count < HEAD_MAX => return Ok(Some(Taken::GoesOn)),
        Parsed::Part | Parsed::Bad => return Ok(Some(Taken::Over)),
    };
    engine.stages.charge(Stage::Parse);
    let path = head.path.to_owned();
    if head.method != "POST" {
        if head.body_len > 0 || engine.answer(head, &[], &mut connection.replies)? == Taken::Over {
            return Ok(Some(Taken::Over));
        }
    } else {
        engine.open(&path)?;
        let commit_at = engine.variant.reserve(head.body_len);
        connection.state = Some(Body { path, commit_at, done: 0, len: head.body_len });
    }
    // With TRUNC these bytes are dropped, not copied once more.
    let len = head.len;
    let dropped = recv(&connection.stream, &mut received[..len], RecvFlags::TRUNC);
    engine.stages.charge(Stage::Receive);
    Ok(if dropped == Ok((len, len)) { None } else { Some(Taken::Over) })
}

/// Takes a body as far as it has come, and answers when that is all of it.
fn take_body(
    engine: &mut Engine<Spliced>,
    connection: &mut Connection<Option<Body>>,
    mut body: Body,
) -> Result<Option<Taken>, Failure> {
    while body.done < body.len {
        match engine.variant.move_on(&connection.stream, &body)? {
            Ok(0) => return Ok(Some(Taken::Over)),
            Ok(taken) => body.done += taken,
            // A client that has gone is no failure; a file that cannot be written is one.
            Err(error) => {
                connection.state = Some(body);
                return Ok(Some(Taken::of(error)));
            }
        }
    }
    let log = engine.logs.find(&body.path).expect("it was opened with the head");
    let head = Head::append(log.number, log.next(), 0, body.len);
    engine.variant.write(&head, body.len, &[], body.commit_at)?;
    let place = Place::new(body.commit_at + (HEADER + HEAD) as u64, 0, body.len);
    engine.answered += 1;
    engine.note(&body.path, place, &mut connection.replies);
    Ok(None)
}

const BLOCK: u64 = 4096;
const HEAD_MAX: usize = 16 << 10;
/// What most heads are shorter than.
const HEAD_USUAL: usize = 512;
/// A pipe's most for a process without privileges.
const PIPE_BYTES: usize = 1 << 20;
