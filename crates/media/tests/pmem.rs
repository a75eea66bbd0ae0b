//! `Pmem` on a real mapping, with the CPU's own instruction.

use std::os::unix::fs::FileExt;

use impasto_media::{CommitId, CpuLines, Event, Medium, Pmem};
use impasto_region::{
    BufId, Extent, Frames, Span,
    layout::{Geometry, MediumKind},
};

/// That a line was written back cannot be seen without pulling a plug; that the right bytes are in
/// the region, and that the instruction exists on this machine, can.
#[test]
fn a_commit_is_in_the_region_with_what_it_keeps() {
    let lines = CpuLines::detect();
    assert!(lines.name().is_some());
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.set_len(16 << 20).unwrap();
    let mut frames = Frames::shared(&file, Geometry::new(16 << 20).unwrap()).unwrap();
    let mut pmem = Pmem::new(lines, MediumKind::Shm);

    let (log, kept) = (Span::new(4096, 64), Extent { buf: BufId(9), offset: 100, len: 7 });
    frames.store(log.at, b"log");
    frames.store(kept.span().at, b"payload");
    pmem.commit(&mut (), &frames, CommitId(3), log, &[kept]);
    let event = Medium::poll(&mut pmem, &mut (), &mut frames);
    assert!(matches!(event, Some(Event::Committed(CommitId(3), Ok(())))));

    let mut found = [0; 7];
    file.read_exact_at(&mut found, kept.span().at).unwrap();
    assert_eq!(&found, b"payload");
    file.read_exact_at(&mut found[..3], log.at).unwrap();
    assert_eq!(&found[..3], b"log");
}

/// Otherwise the banner would name an instruction that is never executed.
#[test]
fn without_flushes_a_commit_is_in_the_region_all_the_same() {
    let lines = CpuLines::fence_only();
    assert_eq!(lines.name(), None);
    let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
    let mut pmem = Pmem::new(lines, MediumKind::Pmem);
    frames.store(4096, b"log");
    pmem.commit(&mut (), &frames, CommitId(0), Span::new(4096, 64), &[]);
    let event = Medium::poll(&mut pmem, &mut (), &mut frames);
    assert!(matches!(event, Some(Event::Committed(CommitId(0), Ok(())))));
}
