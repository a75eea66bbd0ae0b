//! What a killed process leaves behind: writes that the kernel still carries out.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use impasto_region::{
    Frames, Region, Span,
    layout::{Geometry, MediumKind},
};
use impasto_uring::{Fd, Handed, Owner, Token, Uring};

const NAME: &str = "the_lock_of_a_killed_process_is_free_when_its_last_write_has_ended";
const DIR: &str = "IMPASTO_TEST_DIR";
const ROUNDS: usize = 4;
const WRITES: u64 = 15;
const WRITE_BYTES: u32 = 1 << 20;

/// Without `hold`, the next run reads, recovers and appends while writes of the one before still
/// land, and one of them replaces a commit that was acknowledged. How late they are is up to the
/// device: one whose queue is throttled shows it every time, a fast one hardly ever.
#[test]
fn the_lock_of_a_killed_process_is_free_when_its_last_write_has_ended() {
    if let Some(dir) = env::var_os(DIR) {
        write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let geometry = Geometry::new(16 << 20).unwrap();
    Region::create(dir.path(), geometry, MediumKind::Disk, &mut |_| {}).unwrap();
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
        let file = region.open_direct().unwrap();
        let [mut first, mut again] = [(); 2].map(|()| Frames::anonymous(geometry, 0).unwrap());
        let mut io = Uring::new(64).unwrap();
        let file = Fd::from(file);
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
    let mut io = Uring::new(64).unwrap();
    io.hold(region.lock()).unwrap();
    let file = Fd::from(region.open_direct().unwrap());
    let mut write = |io: &mut Uring, number: u64, span: Span| {
        let bytes = number.to_le_bytes().repeat(WRITE_BYTES as usize / 8);
        frames.store(span.at, &bytes);
        io.write(Token { owner: Owner::Dev, value: span.at }, &file, &frames, span, true);
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
fn read(io: &mut Uring, file: &Fd, frames: &mut Frames) {
    for span in spans() {
        let loan = frames.loan_span(span);
        io.read(Token { owner: Owner::Dev, value: 0 }, file, frames, loan);
    }
    let mut left = WRITES;
    while left > 0 {
        io.enter(None).unwrap();
        while let Some(done) = io.completion(Owner::Dev) {
            assert_eq!(done.result.unwrap(), WRITE_BYTES);
            let Handed::Filled(filled) = done.handed else { panic!("{:?}", done.handed) };
            frames.settle_span(filled);
            left -= 1;
        }
    }
}

/// All between the superblocks.
fn spans() -> impl Iterator<Item = Span> {
    (0..WRITES).map(|index| span_at(4096 + index * u64::from(WRITE_BYTES)))
}

fn span_at(at: u64) -> Span {
    Span::new(at, WRITE_BYTES.into())
}
