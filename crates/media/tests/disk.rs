//! `Disk` on a real file, by io_uring and by epoll's threads: `O_DIRECT`, `RWF_DSYNC`.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{fs::File, io};

use impasto_epoll::Epoll;
use impasto_media::{CommitId, Disk, Event, FileDev, Files, Medium, Ticket};
use impasto_region::{Frames, Span, layout::Geometry};
use impasto_uring::Uring;
use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;

const REGION_BYTES: u64 = 16 << 20;

/// What a worker waits on.
trait Io: Files {
    fn make() -> Self;
    fn wait(&mut self);
}

impl Io for Uring {
    fn make() -> Self {
        Self::new(64).unwrap()
    }

    fn wait(&mut self) {
        self.enter(None).unwrap();
    }
}

impl Io for Epoll {
    fn make() -> Self {
        Self::new().unwrap()
    }

    fn wait(&mut self) {
        self.enter(None).unwrap();
    }
}

/// A worker's half that has to do with the disk.
struct Bench<I> {
    io: I,
    frames: Frames,
    disk: Disk<FileDev>,
}

impl<I: Io> Bench<I> {
    fn open(file: &NamedTempFile, access: OFlags) -> Self {
        let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
        let direct = rustix::fs::open(file.path(), flags, Mode::empty()).unwrap();
        let geometry = Geometry::new(REGION_BYTES).unwrap();
        Self {
            io: I::make(),
            frames: Frames::anonymous(geometry, 0).unwrap(),
            disk: Disk::new(FileDev::new(File::from(direct))),
        }
    }

    fn wait(&mut self) -> Event {
        loop {
            if let Some(event) = self.disk.poll(&mut self.io, &mut self.frames) {
                return event;
            }
            self.io.wait();
        }
    }

    fn read(&mut self, spans: &[Span]) -> io::Result<()> {
        self.disk.read(&mut self.io, &mut self.frames, Ticket(0), spans);
        match self.wait() {
            Event::Read(Ticket(0), result) => result,
            other => panic!("{other:?}"),
        }
    }
}

fn region_file(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

/// Bytes that differ from place to place, so that misplaced ones are seen.
fn pattern(span: Span) -> Vec<u8> {
    (span.at..span.end()).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

fn what_was_committed_and_persisted_is_read_back_into_fresh_frames<I: Io>() {
    let file = region_file(REGION_BYTES);
    let commits = [Span::new(4096, 512 << 10), Span::new(1 << 20, 4096)];
    let bodies = [Span::new(4 << 20, 3 << 20), Span::new(REGION_BYTES - 4096, 4096)];

    let mut first = Bench::<I>::open(&file, OFlags::RDWR);
    for span in commits.into_iter().chain(bodies) {
        first.frames.store(span.at, &pattern(span));
    }
    first.disk.persist(&mut first.io, &first.frames, Ticket(7), &bodies);
    for (id, log) in (0..).zip(commits) {
        first.disk.commit(&mut first.io, &first.frames, CommitId(id), log, &[]);
    }
    let (mut committed, mut persisted) = (0, 0);
    for _ in 0..3 {
        match first.wait() {
            Event::Committed(_, result) => committed += result.map(|()| 1).unwrap(),
            Event::Persisted(Ticket(7), result) => persisted += result.map(|()| 1).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((committed, persisted), (2, 1));
    drop(first);

    let mut second = Bench::<I>::open(&file, OFlags::RDWR);
    second.read(&[commits[0], commits[1], bodies[0], bodies[1]]).unwrap();
    for span in commits.into_iter().chain(bodies) {
        assert!(second.frames.bytes(span) == pattern(span), "{span:?}");
    }
}

/// The path of a long body: what a client gave up in the middle is nowhere, what followed it is
/// whole.
fn a_body_in_parts_is_read_back_from_blocks_that_another_was_abandoned_in<I: Io>() {
    let file = region_file(REGION_BYTES);
    let body = Span::new(4 << 20, 6 << 20);
    let parts = || (body.at..body.end()).step_by(192 << 10).map(|at| Span::new(at, 192 << 10));
    let mut first = Bench::<I>::open(&file, OFlags::RDWR);
    first.frames.store(body.at, &vec![0xee; usize::try_from(body.len).unwrap()]);
    for part in parts() {
        first.disk.write(&mut first.io, &first.frames, Ticket(1), &[part]);
    }
    first.disk.abandon(&mut first.io, Ticket(1));
    let event = first.wait();
    assert!(matches!(event, Event::Abandoned(Ticket(1))), "{event:?}");

    for part in parts() {
        first.frames.store(part.at, &pattern(part));
        first.disk.write(&mut first.io, &first.frames, Ticket(1), &[part]);
    }
    first.disk.persist(&mut first.io, &first.frames, Ticket(1), &[]);
    let event = first.wait();
    assert!(matches!(event, Event::Persisted(Ticket(1), Ok(()))), "{event:?}");
    drop(first);

    let mut second = Bench::<I>::open(&file, OFlags::RDWR);
    second.read(&[body]).unwrap();
    assert!(second.frames.bytes(body) == pattern(body));
}

/// A region file that was cut off must not look like one that holds zeroes.
fn a_read_behind_the_end_of_the_file_is_short_and_an_error<I: Io>() {
    let file = region_file(1 << 20);
    let mut bench = Bench::<I>::open(&file, OFlags::RDWR);
    let error = bench.read(&[Span::new((1 << 20) - 4096, 12288)]).unwrap_err();
    let expected = "unreadable blocks: 2, the first at 0x100000: short read: 0 of 4096 bytes";
    assert!(error.to_string().starts_with(expected), "{error}");
}

/// D7, on a real failure: the device refuses to write.
fn a_device_that_cannot_be_written_fails_commit_and_persist_and_is_still_read<I: Io>() {
    let file = region_file(REGION_BYTES);
    let mut bench = Bench::<I>::open(&file, OFlags::RDONLY);
    bench.disk.persist(&mut bench.io, &bench.frames, Ticket(1), &[Span::new(4096, 4096)]);
    let event = bench.wait();
    assert!(matches!(event, Event::Persisted(Ticket(1), Err(_))), "{event:?}");
    bench.disk.commit(&mut bench.io, &bench.frames, CommitId(0), Span::new(8192, 4096), &[]);
    let event = bench.wait();
    assert!(matches!(event, Event::Committed(CommitId(0), Err(_))), "{event:?}");
    bench.read(&[Span::new(4096, 4096)]).unwrap();
}

macro_rules! on_each {
    ($($scenario:ident),+ $(,)?) => {
        mod by_uring {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario::<impasto_uring::Uring>();
                }
            )+
        }

        mod by_epoll {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario::<impasto_epoll::Epoll>();
                }
            )+
        }
    };
}

on_each!(
    what_was_committed_and_persisted_is_read_back_into_fresh_frames,
    a_body_in_parts_is_read_back_from_blocks_that_another_was_abandoned_in,
    a_read_behind_the_end_of_the_file_is_short_and_an_error,
    a_device_that_cannot_be_written_fails_commit_and_persist_and_is_still_read,
);
