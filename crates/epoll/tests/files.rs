//! Operations on real files, and what a killed process leaves behind.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use impasto_epoll::{Epoll, Landing};
use impasto_region::{
    Frames, Region, Span,
    layout::{Geometry, MediumKind},
};
use impasto_uring::{Completion, Fd, Handed, Owner, Piece, Token};

const REGION_BYTES: u64 = 16 << 20;
const LONG: Duration = Duration::from_secs(10);

fn geometry() -> Geometry {
    Geometry::new(REGION_BYTES).unwrap()
}

fn zeroed_file() -> (tempfile::TempDir, File) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("region");
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(REGION_BYTES).unwrap();
    (dir, file)
}

fn token(value: u64) -> Token {
    Token { owner: Owner::Dev, value }
}

fn next(io: &mut Epoll) -> Completion<Landing> {
    let start = Instant::now();
    loop {
        if let Some(completion) = io.completion(Owner::Dev) {
            return completion;
        }
        assert!(start.elapsed() < LONG, "nothing more happens");
        io.enter(Some(LONG)).unwrap();
    }
}

#[test]
fn what_was_written_is_read_back() {
    let (_dir, file) = zeroed_file();
    let fd = Fd::from(file);
    let mut frames = Frames::anonymous(geometry(), 0).unwrap();
    let mut io = Epoll::new().unwrap();
    let span = Span::new(8192, 12288);
    let pattern: Vec<u8> = (0..12288_u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
    for dsync in [false, true] {
        frames.store(span.at, &pattern);
        io.write(token(1), &fd, &frames, span, dsync);
        assert_eq!(next(&mut io).result.unwrap(), 12288);
        frames.store(span.at, &[0; 12288]);
        let loan = frames.loan_span(span);
        io.read(token(2), &fd, loan);
        let done = next(&mut io);
        assert_eq!(done.result.unwrap(), 12288);
        assert!(!frames.is_settled(span));
        let Handed::Filled(loan) = done.handed else { panic!("{:?}", done.handed) };
        assert_eq!(frames.settle_span(loan), span);
        assert_eq!(frames.bytes(span), pattern);
    }
    // Behind the end, a read is short and says so.
    let end = Span::new(REGION_BYTES - 4096, 4096);
    File::from(fd.into_sole().unwrap()).set_len(end.at + 100).unwrap();
    let file = File::open(_dir.path().join("region")).unwrap();
    io.read(token(3), &file.into(), frames.loan_span(end));
    assert_eq!(next(&mut io).result.unwrap(), 100);
}

/// More than there are threads wait for their turn; none is lost, and each goes to its owner.
#[test]
fn many_operations_all_complete() {
    let (_dir, file) = zeroed_file();
    let fd = Fd::from(file);
    let frames = Frames::anonymous(geometry(), 0).unwrap();
    let mut io = Epoll::new().unwrap();
    for value in 0..300 {
        match value % 3 {
            0 => io.fsync_data(token(value), &fd),
            1 => io.write(token(value), &fd, &frames, Span::new(value * 4096, 4096), true),
            _ => io.write(token(value), &fd, &frames, Span::new(value * 4096, 4096), false),
        };
    }
    let mut seen = [false; 300];
    for _ in 0..300 {
        let done = next(&mut io);
        done.result.unwrap();
        let value = usize::try_from(done.token.value).unwrap();
        assert!(!std::mem::replace(&mut seen[value], true));
    }
    assert_eq!(io.in_flight(), 0);
}

/// Without the wait in `drop`, files and memory would be in use after it.
#[test]
fn one_dropped_with_operations_in_flight_lets_go_of_all_memory() {
    for has_begun in [true, false] {
        let (_dir, file) = zeroed_file();
        let fd = Fd::from(file);
        let mut frames = Frames::anonymous(geometry(), 0).unwrap();
        let mut io = Epoll::new().unwrap();
        let (_other, full) = std::os::unix::net::UnixStream::pair().unwrap();
        let whole = Piece::Stored(Span::new(0, REGION_BYTES));
        let full = Fd::from(std::os::fd::OwnedFd::from(full));
        io.send(token(0), &full, &frames, vec![1; 100], [whole, whole]);
        for value in 1..30 {
            io.write(token(value), &fd, &frames, Span::new(0, 1 << 20), true);
        }
        let loan = frames.loan_span(Span::new(1 << 20, 1 << 20));
        io.read(token(99), &fd, loan);
        if has_begun {
            io.enter(Some(Duration::ZERO)).unwrap();
        }
        let map = std::sync::Arc::downgrade(&frames.map());
        drop(frames);
        assert!(map.upgrade().is_some(), "it keeps the mapping");
        drop(io);
        assert!(map.upgrade().is_none(), "nothing is left in flight");
        assert!(fd.into_sole().is_some());
    }
}

const NAME: &str = "the_lock_of_a_killed_process_is_free_when_its_last_write_has_ended";
const DIR: &str = "IMPASTO_TEST_DIR";
const ROUNDS: usize = 4;
const WRITES: u64 = 15;
const WRITE_BYTES: u32 = 1 << 20;

/// D6: were the lock free before, the next run would read, recover and append while writes of the
/// one before still land.
#[test]
fn the_lock_of_a_killed_process_is_free_when_its_last_write_has_ended() {
    if let Some(dir) = env::var_os(DIR) {
        write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    Region::create(dir.path(), geometry(), MediumKind::Disk, &mut |_| {}).unwrap();
    for _ in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with("writing")));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        // Waits for the lock of a dead process.
        let region = Region::open(dir.path()).unwrap();
        let file = Fd::from(region.open_direct().unwrap());
        let [mut first, mut again] = [(); 2].map(|()| Frames::anonymous(geometry(), 0).unwrap());
        let mut io = Epoll::new().unwrap();
        read(&mut io, &file, &mut first);
        for _ in 0..ROUNDS {
            read(&mut io, &file, &mut again);
            for write in spans() {
                assert!(first.bytes(write) == again.bytes(write), "{write:?} was still written");
            }
        }
    }
}

/// Keeps a write to each span in flight, each time of other bytes.
fn write_until_killed(dir: &Path) -> ! {
    let region = Region::open(dir).unwrap();
    let mut frames = Frames::anonymous(region.superblock().geometry, 0).unwrap();
    let mut io = Epoll::new().unwrap();
    io.hold(region.lock()).unwrap();
    let file = Fd::from(region.open_direct().unwrap());
    let mut write = |io: &mut Epoll, number: u64, span: Span| {
        let bytes = number.to_le_bytes().repeat(WRITE_BYTES as usize / 8);
        frames.store(span.at, &bytes);
        io.write(token(span.at), &file, &frames, span, true);
    };
    spans().for_each(|span| write(&mut io, 0, span));
    io.enter(None).unwrap();
    std::io::stdout().write_all(b"writing\n").unwrap();
    for number in 1.. {
        while let Some(done) = io.completion(Owner::Dev) {
            assert_eq!(done.result.unwrap(), WRITE_BYTES);
            write(&mut io, number, span_at(done.token.value));
        }
        io.enter(None).unwrap();
    }
    unreachable!("killed before")
}

/// Reads what was written.
fn read(io: &mut Epoll, file: &Fd, frames: &mut Frames) {
    for span in spans() {
        io.read(token(0), file, frames.loan_span(span));
    }
    for _ in 0..WRITES {
        let done = next(io);
        assert_eq!(done.result.unwrap(), WRITE_BYTES);
        let Handed::Filled(loan) = done.handed else { panic!("{:?}", done.handed) };
        frames.settle_span(loan);
    }
}

/// All between the superblocks.
fn spans() -> impl Iterator<Item = Span> {
    (0..WRITES).map(|index| span_at(4096 + index * u64::from(WRITE_BYTES)))
}

fn span_at(at: u64) -> Span {
    Span::new(at, WRITE_BYTES.into())
}
