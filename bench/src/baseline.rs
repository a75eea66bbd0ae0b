//! What one would write by hand: an epoll server that appends HTTP bodies to a log in persistent
//! memory, with one flush and fence for each batch and one write for each connection.
//!
//! It does what Impasto does for an append, and no more: the same parser, the same checksum, the
//! same flush, the same reply. It does nothing for slow, broken or many clients, recovers nothing,
//! and knows one medium. Values are copied to their record, where Impasto keeps them where they
//! landed.
//!
//! ```text
//! turn:  epoll_wait -> of each ready connection: one read, parse, append
//!        -> checksum, flush, fence -> one write for each connection with replies
//! ```

use std::{
    collections::HashMap,
    convert::Infallible,
    io::Write,
    mem,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::PathBuf,
    process::ExitCode,
};

use impasto::region::{
    Checksum, CpuFlush, Frames, Region, Span,
    layout::{Geometry, MediumKind},
};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use crate::cli::{self, Failure, tell};

/// Options of the hidden `impasto-bench baseline`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the memory, on tmpfs
    #[arg(long)]
    data: PathBuf,
    /// Size of the memory
    #[arg(long, value_parser = cli::size)]
    size: u64,
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
}

/// Serves until it is killed.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let geometry = Geometry::try_from(args.size)?;
    Region::create(&args.data, geometry, MediumKind::Shm, &mut |_| {})?;
    let region = Region::open(&args.data)?;
    let frames = Frames::shared(region.file(), geometry)?;
    let listener = TcpListener::bind(args.http)?;
    listener.set_nonblocking(true)?;
    tell(&format!("listening  http://{}", listener.local_addr()?));
    let log = Log::new(frames, geometry.region_bytes());
    match serve(&listener, log)? {}
}

/// A client, and what is between a turn and the next.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The beginning of a request.
    rest: Vec<u8>,
    replies: Vec<u8>,
}

fn serve(listener: &TcpListener, mut log: Log) -> Result<Infallible, Failure> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let number = |fd: &dyn AsRawFd| usize::try_from(fd.as_raw_fd());
    let accepts = number(listener)?;
    epoll::add(&epoll, listener, EventData::new_u64(accepts as u64), EventFlags::IN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut events, mut answered) = (Vec::with_capacity(EVENTS), Vec::new());
    let mut received = vec![0; RECEIVE_BYTES];
    loop {
        events.clear();
        if let Err(error) = epoll::wait(&epoll, spare_capacity(&mut events), None)
            && error != Errno::INTR
        {
            return Err(error.into());
        }
        for event in &events {
            let at = usize::try_from(event.data.u64())?;
            if at == accepts {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let at = number(&stream)?;
                    epoll::add(&epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
                    connections.resize_with(connections.len().max(at + 1), || None);
                    let (rest, replies) = (Vec::new(), Vec::new());
                    connections[at] = Some(Connection { stream, rest, replies });
                }
                continue;
            }
            let connection = &mut connections[at];
            match connection.as_mut().map(|connection| connection.take(&mut received, &mut log)) {
                Some(true) => answered.push(at),
                Some(false) => *connection = None,
                None => {}
            }
        }
        log.commit();
        for at in answered.drain(..) {
            if let Some(connection) = &mut connections[at]
                && !connection.reply()
            {
                connections[at] = None;
            }
        }
    }
}

impl Connection {
    /// Receives once, and does what has come. Returns false if the connection is over.
    fn take(&mut self, received: &mut [u8], log: &mut Log) -> bool {
        let count = match recv(&self.stream, &mut *received, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return false,
            Ok((_, count)) => count,
            Err(error) => return error == Errno::AGAIN,
        };
        let mut rest = mem::take(&mut self.rest);
        let bytes = if rest.is_empty() {
            &received[..count]
        } else {
            rest.extend_from_slice(&received[..count]);
            &rest
        };
        let mut done = 0;
        while done < bytes.len() {
            match answer(&bytes[done..], log, &mut self.replies) {
                Some(0) => break,
                Some(len) => done += len,
                None => return false,
            }
        }
        self.rest.extend_from_slice(&bytes[done..]);
        true
    }

    /// Sends what there is; returns false if it is not all taken: nobody here waits for those who
    /// do not read.
    fn reply(&mut self) -> bool {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent =
            if self.replies.is_empty() { Ok(0) } else { send(&self.stream, &self.replies, flags) };
        let is_sent = sent == Ok(self.replies.len());
        self.replies.clear();
        is_sent
    }
}

/// Does the first request of `bytes`, and returns its length; 0 if it has not come whole, `None` if
/// it is none that can be done.
fn answer(bytes: &[u8], log: &mut Log, replies: &mut Vec<u8>) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).ok()? else {
        return Some(0);
    };
    let mut len = 0;
    for header in &*request.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            len = std::str::from_utf8(header.value).ok()?.parse().ok()?;
        }
    }
    let Some(body) = bytes.get(head..head + len) else {
        return Some(0);
    };
    let path = request.path?;
    let replied = match request.method? {
        "POST" => {
            let number = log.append(path, body);
            write!(
                replies,
                "HTTP/1.1 201 Created\r\nLocation: {path}/{number}\r\nETag: \"{number}\"\r\n\
                 Content-Length: 0\r\n\r\n"
            )
        }
        "DELETE" => {
            log.trim(path.split('?').next()?);
            replies.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        }
        _ => return None,
    };
    replied.ok().map(|()| head + len)
}

/// Records in memory, one commit behind the other, round and round: whoever appends trims.
struct Log {
    frames: Frames,
    flush: CpuFlush,
    end: u64,
    /// Where the open commit starts, and where the next record goes.
    start: u64,
    at: u64,
    lsn: u64,
    /// By path: where its records are, and how many there were before.
    names: HashMap<String, (Vec<Span>, u64)>,
}

impl Log {
    fn new(frames: Frames, region_bytes: u64) -> Self {
        let (flush, names) = (CpuFlush::detect(), HashMap::new());
        let at = BLOCK + HEADER_BYTES;
        Self { frames, flush, end: region_bytes - BLOCK, start: BLOCK, at, lsn: 1, names }
    }

    /// Appends a record, and returns its number.
    fn append(&mut self, path: &str, value: &[u8]) -> u64 {
        let len = value.len() as u64;
        let place = Span::new(self.at + HEADER_BYTES, len);
        if place.end() + 2 * HEADER_BYTES > self.end {
            self.commit();
            self.start = BLOCK;
            self.at = BLOCK + HEADER_BYTES;
            return self.append(path, value);
        }
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&self.lsn.to_le_bytes());
        header[8..16].copy_from_slice(&len.to_le_bytes());
        let name = &path.as_bytes()[..path.len().min(48)];
        header[16..16 + name.len()].copy_from_slice(name);
        self.frames.store(self.at, &header);
        self.frames.store(place.at, value);
        self.at = place.end().next_multiple_of(8);
        self.lsn += 1;
        if !self.names.contains_key(path) {
            self.names.insert(path.to_owned(), (Vec::new(), 0));
        }
        let (records, before) = self.names.get_mut(path).expect("it is there, seen above");
        records.push(place);
        *before + records.len() as u64
    }

    /// Makes everything durable that was appended.
    fn commit(&mut self) {
        let records = Span::new(self.start + HEADER_BYTES, self.at - self.start - HEADER_BYTES);
        if records.len == 0 {
            return;
        }
        let checksum = Checksum::of(self.frames.bytes(records));
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&checksum.to_le_bytes());
        header[8..16].copy_from_slice(&records.len.to_le_bytes());
        header[16..24].copy_from_slice(&self.lsn.to_le_bytes());
        self.frames.store(self.start, &header);
        self.flush.flush(&self.frames, Span::new(self.start, HEADER_BYTES + records.len));
        self.flush.fence();
        // On lines of its own: those of the last one are being written back.
        self.start = self.at.next_multiple_of(64);
        self.at = self.start + HEADER_BYTES;
    }

    fn trim(&mut self, path: &str) {
        if let Some((records, before)) = self.names.get_mut(path) {
            *before += records.len() as u64;
            records.clear();
        }
    }
}

const BLOCK: u64 = 4096;
const HEADER: usize = 64;
const HEADER_BYTES: u64 = HEADER as u64;
const EVENTS: usize = 256;
const RECEIVE_BYTES: usize = 64 << 10;
