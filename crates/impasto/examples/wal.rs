//! The loop of the talk: for each slot between head and tail, look at the data; what is a write is
//! kept where it landed and logged; then all of it is persisted, and the replies leave.
//!
//! After Honda, Lettieri, Eggert, Santry: *Extending Linux Network Stack for Persistent Memory*
//! (netdev 2.2). Here on the kernel's own TCP by io_uring, and with a log that is found again after
//! a crash.
//!
//! `cargo run --example wal` appends three values through a TCP connection, stops without any
//! ceremony, and recovers them.

use std::{error::Error, io::Read, io::Write, net::TcpStream, path::Path, thread};

use impasto::{
    media::{CommitId, CpuLines, Medium, Pmem},
    region::{
        Checksum, Frames, Region,
        layout::{Geometry, MediumKind},
    },
    ring::{Limits, Part, Port, Transmit, UringPort, What, listen},
    server,
    store::{Applied, Effect, FramesSink, Request, Store, Value},
    uring::Uring,
};

/// What a server of this kind is made of.
struct Parts {
    io: Uring,
    port: UringPort,
    medium: Pmem<CpuLines>,
    frames: Frames,
    store: Store,
}

/// One turn of the loop of the talk.
fn turn(parts: &mut Parts) -> Result<usize, Box<dyn Error>> {
    let Parts { io, port, medium, frames, store } = parts;
    io.enter(None)?; // one system call: sends what was queued, waits, receives for all connections
    port.receive(io, frames); // tail moves
    let mut writers = Vec::new();
    while let Some(slot) = port.ring().advance() {
        let What::Data(extent) = slot.what else { continue };
        let Some(value) = frames.bytes(extent.span()).strip_prefix(b"SET ") else { continue };
        let checksum = Checksum::of(value);
        let kept = extent.part(4, u32::MAX); // it stays where it landed: (buffer, offset, length)
        let value = Value::Kept { extents: &[kept], checksum };
        let request = Request::Append { log: "wal", value };
        match store.apply(request, &mut FramesSink::new(frames, &[])) {
            Applied::Done(Effect { answer: Ok(_), .. }) => writers.push(slot.flow),
            other => return Err(format!("{other:?}").into()), // a server would answer that
        }
    }
    if let Some(commit) = store.seal(&mut FramesSink::new(frames, &[])) {
        // Flush the payload, fence, flush the record, fence: one commit for the whole batch.
        let kept = store.kept();
        medium.commit(io, frames, CommitId(commit.id), commit.span, kept);
        store.completed(commit.id, true);
    }
    for &flow in &writers {
        let bytes = b"OK\n".to_vec(); // durable by now
        let parts = vec![Part::Bytes { at: 0, len: 3 }];
        port.transmit(io, frames, flow, Transmit { bytes, parts });
    }
    while port.sent().is_some() {}
    port.ring().release(); // head moves
    Ok(writers.len())
}

/// Opens the region, recovers what is in it, and listens; returns the port's number, too.
fn open(dir: &Path) -> Result<(Parts, u16), Box<dyn Error>> {
    let region = Region::open(dir)?;
    let superblock = *region.superblock();
    let mut frames = Frames::shared(region.file(), superblock.geometry)?;
    let mut medium = Pmem::new(CpuLines::detect(), MediumKind::Shm);
    let mut io = Uring::new(64)?;
    let (mut store, _) = server::start(&mut io, &mut medium, &mut frames, superblock)?;
    let listener = listen("127.0.0.1:0".parse()?)?;
    let number = listener.local_addr()?.port();
    let mut port = UringPort::new(&mut io, &frames, [listener], Limits::default())?;
    for _ in 0..4 {
        let buf = store.take_landing(true).ok_or("a new region has free buffers")?;
        port.provide(&mut io, &mut frames, buf);
    }
    Ok((Parts { io, port, medium, frames, store }, number))
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    Region::create(dir.path(), Geometry::try_from(16 << 20)?, MediumKind::Shm, &mut |_| {})?;
    let (mut parts, number) = open(dir.path())?;
    let client = thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", number))?;
        for value in ["one", "two", "three"] {
            stream.write_all(format!("SET {value}").as_bytes())?;
            stream.read_exact(&mut [0; 3])?;
        }
        Ok(())
    });
    let mut writes = 0;
    while writes < 3 {
        writes += turn(&mut parts)?;
    }
    parts.io.enter(None)?; // the last reply leaves
    client.join().expect("the client does not panic")?;
    drop(parts); // no clean stop: what follows is what recovery finds

    let (mut parts, _) = open(dir.path())?;
    for (seq, expected) in (1..).zip(["one", "two", "three"]) {
        let request = Request::Read { log: "wal", seq };
        parts.store.apply(request, &mut FramesSink::new(&mut parts.frames, &[]));
        let found = parts.store.found();
        let value: Vec<u8> =
            found.iter().flat_map(|part| parts.frames.bytes(part.span())).copied().collect();
        assert_eq!(value, expected.as_bytes());
    }
    Ok(())
}
