//! Regions as files: created, locked, opened, refused. Real files and real processes.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use impasto_region::{
    Checksum, Error, Examined, Frames, Region,
    layout::{BLOCK_BYTES, Geometry, MediumKind, Superblock, SuperblockError},
    shm_probe,
};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use tempfile::TempDir;

const BYTES: u64 = 17 << 20;

fn geometry() -> Geometry {
    Geometry::new(BYTES).unwrap()
}

/// A directory on the disk that holds the build; /tmp is often in memory.
fn place() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn create(dir: &Path) -> Result<(), Error> {
    Region::create(dir, geometry(), MediumKind::Disk, &mut |_| {})
}

fn place_with_region() -> TempDir {
    let dir = place();
    create(dir.path()).unwrap();
    dir
}

fn region_file(dir: &TempDir) -> File {
    let path = dir.path().join("region");
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn write_copy(file: &File, superblock: &Superblock) {
    let at = superblock.geometry.superblock(superblock.copy()).at;
    file.write_all_at(&superblock.encode(), at).unwrap();
}

fn flip_bit(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Starts this program again, to run only `test` with `dir` in its environment, from a shell after
/// `setup`.
fn child(test: &str, dir: &Path, setup: &str) -> Child {
    let script = format!("{setup} exec \"$0\" --exact {test} --nocapture");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(env::current_exe().unwrap()).env(CHILD, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Returns the directory if this process is a child that [`child`] started.
fn is_child() -> Option<PathBuf> {
    env::var_os(CHILD).map(PathBuf::from)
}

fn succeeds(mut child: Child) {
    drop(child.stdin.take());
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
    assert!(output.contains("1 passed"), "{output}");
}

const CHILD: &str = "IMPASTO_TEST_DIR";

/// Without real zeroes the first write to each block would change the file's map (D9).
#[test]
fn a_created_region_is_zeroed_and_opens() {
    let dir = place();
    let dir = dir.path().join("made/on/the/way");
    let mut seen = vec![0];
    Region::create(&dir, geometry(), MediumKind::Disk, &mut |done| seen.push(done)).unwrap();
    assert!(seen.is_sorted() && seen.last() == Some(&BYTES), "{seen:?}");
    assert!(seen.len() > 3, "{seen:?}");
    assert_eq!(names(&dir), ["lock", "region"]);

    let region = Region::open(&dir).unwrap();
    let superblock = region.superblock();
    assert_eq!((superblock.generation, superblock.geometry), (0, geometry()));
    assert_eq!(superblock.medium, MediumKind::Disk);
    assert_eq!(region.damaged_copy(), None);
    let metadata = region.file().metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o077, 0);
    assert!(metadata.blocks() * 512 >= BYTES);
    let bytes = fs::read(region.path()).unwrap();
    assert!(bytes[512..].iter().all(|&byte| byte == 0));
}

/// A second `create` must never destroy what is there.
#[test]
fn a_region_is_created_once() {
    let dir = place_with_region();
    let uuid = Region::open(dir.path()).unwrap().superblock().uuid;
    assert!(matches!(create(dir.path()), Err(Error::Exists { .. })));
    assert_eq!(Region::open(dir.path()).unwrap().superblock().uuid, uuid);
}

/// D9: a crash while creating leaves `region.new`, which is no region and in nobody's way.
#[test]
fn what_an_interrupted_creation_left_is_replaced() {
    let dir = place();
    fs::write(dir.path().join("region.new"), vec![0xee; 20 << 20]).unwrap();
    assert!(!Region::exists(dir.path()).unwrap());
    assert!(matches!(Region::open(dir.path()), Err(Error::NoRegion { .. })));
    create(dir.path()).unwrap();
    assert_eq!(names(dir.path()), ["lock", "region"]);
    assert_eq!(Region::open(dir.path()).unwrap().file().metadata().unwrap().len(), BYTES);
}

/// Two writers would destroy the log.
#[test]
fn a_second_process_is_refused_and_told_who_holds_the_region() {
    if let Some(dir) = is_child() {
        let _region = Region::open(&dir).unwrap();
        println!("\nopen");
        // Ends when the parent closes its end, or by being killed.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let dir = place_with_region();
    let test = "a_second_process_is_refused_and_told_who_holds_the_region";
    let mut child = child(test, dir.path(), "");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "open"));

    let error = Region::open(dir.path()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::InUse { pid, .. } if pid == Some(child.id())), "{text}");
    assert!(text.contains("stop it, or choose another --data"), "{text}");
    assert!(matches!(create(dir.path()), Err(Error::InUse { .. })));

    // The lock dies with its holder, however it ends.
    child.kill().unwrap();
    child.wait().unwrap();
    Region::open(dir.path()).unwrap();
}

#[test]
fn a_region_is_open_once_in_a_process() {
    let dir = place_with_region();
    let first = Region::open(dir.path()).unwrap();
    assert!(matches!(Region::open(dir.path()), Err(Error::InUse { .. })));
    drop(first);
    Region::open(dir.path()).unwrap();
}

/// D6: whoever has writes in flight holds the lock on. Unlocked with the region, it would let the
/// next one read what those still write.
#[test]
fn d6_a_lock_that_was_given_on_ends_with_its_last_holder() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path()).unwrap();
    let region = Region::open(dir.path()).unwrap();
    let writes = region.lock().try_clone_to_owned().unwrap();
    drop(region);
    assert!(matches!(Region::open(dir.path()), Err(Error::InUse { .. })));
    drop(writes);
    Region::open(dir.path()).unwrap();
}

/// From `shm` the way back is a copy. On a disk nothing is gained by it, so it is a slip.
#[test]
fn a_region_on_a_disk_is_not_served_on_shm_where_it_is() {
    let dir = place_with_region();
    if shm_probe(dir.path()).is_ok() {
        println!("skipped: the directory for temporary files is in memory");
        return;
    }
    let file = region_file(&dir);
    let fresh = *Region::open(dir.path()).unwrap().superblock();
    write_copy(&file, &Superblock { clean: true, generation: 1, epoch: 1, ..fresh });
    let mut region = Region::open(dir.path()).unwrap();
    let refused = region.serve_on(MediumKind::Shm);
    assert!(matches!(refused, Err(Error::NotInMemory { .. })), "{refused:?}");
    assert_eq!(region.medium(), MediumKind::Disk);
}

/// Each directory has a lock of its own, so with that alone a region that is linked to two of them
/// would be open twice, and each of two servers would write over what the other has acknowledged.
#[test]
fn a_region_is_open_once_under_all_of_its_names() {
    let dir = place_with_region();
    let [linked, symlinked] = [place(), place()];
    let names = [dir.path(), linked.path(), symlinked.path()];
    fs::hard_link(dir.path().join("region"), linked.path().join("region")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("region"), symlinked.path().join("region")).unwrap();
    for first in names {
        let open = Region::open(first).unwrap();
        for second in names {
            let refused = |error| matches!(error, Some(Error::InUse { pid: Some(_), .. }));
            assert!(refused(Region::open(second).err()), "{first:?}, {second:?}");
            assert!(refused(Examined::open(second).err()), "{first:?}, {second:?}");
        }
        drop(open);
    }
}

/// D9: of two valid copies the newer one holds, and one that is damaged is not missed.
#[test]
fn the_newer_superblock_holds_unless_it_is_damaged() {
    let dir = place_with_region();
    let file = region_file(&dir);
    let first = *Region::open(dir.path()).unwrap().superblock();
    let second = Superblock { generation: 1, epoch: 7, ..first };
    let third = Superblock { generation: 2, epoch: 8, ..first };
    write_copy(&file, &second);
    assert_eq!(*Region::open(dir.path()).unwrap().superblock(), second);
    write_copy(&file, &third);
    let region = Region::open(dir.path()).unwrap();
    assert_eq!((*region.superblock(), region.damaged_copy()), (third, None));
    drop(region);

    flip_bit(&file, 72);
    let region = Region::open(dir.path()).unwrap();
    assert_eq!(*region.superblock(), second);
    assert_eq!(region.damaged_copy(), Some((0, SuperblockError::Checksum)));
    drop(region);

    write_copy(&file, &third);
    flip_bit(&file, BYTES - BLOCK_BYTES);
    let region = Region::open(dir.path()).unwrap();
    assert_eq!(*region.superblock(), third);
    assert_eq!(region.damaged_copy(), Some((1, SuperblockError::Magic)));
}

/// A torn first update is damage, though the second copy had never been valid.
#[test]
fn a_fresh_region_with_something_in_the_second_place_is_told_from_a_blank_one() {
    let dir = place_with_region();
    let file = region_file(&dir);
    file.write_all_at(b"IMP", BYTES - BLOCK_BYTES).unwrap();
    let region = Region::open(dir.path()).unwrap();
    assert_eq!(region.damaged_copy(), Some((1, SuperblockError::Magic)));
}

#[test]
fn without_a_whole_superblock_nothing_opens_and_both_reasons_are_named() {
    let dir = place_with_region();
    flip_bit(&region_file(&dir), 100);
    let error = Region::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }));
    let text = error.to_string();
    assert!(text.contains("does not verify") && text.contains("magic is missing"), "{text}");
}

/// An older program must not fall back to the copy that a newer one left behind.
#[test]
fn a_copy_from_a_newer_version_refuses_the_region() {
    let dir = place_with_region();
    let file = region_file(&dir);
    let first = *Region::open(dir.path()).unwrap().superblock();
    let mut block = Superblock { generation: 1, ..first }.encode();
    block[24] |= 0x80;
    let mut sum = Checksum::new();
    sum.update(&block[..504]);
    sum.update(&1_u64.to_le_bytes());
    block[504..512].copy_from_slice(&sum.value().to_le_bytes());
    file.write_all_at(&block, BYTES - BLOCK_BYTES).unwrap();
    let error = Region::open(dir.path()).unwrap_err();
    let expected = SuperblockError::Incompat { bits: 0x80 };
    assert!(matches!(error, Error::Unsupported { copy: 1, error, .. } if error == expected));
}

#[test]
fn halves_of_two_regions_are_no_region() {
    let (dir, other) = (place_with_region(), place_with_region());
    let stranger = *Region::open(other.path()).unwrap().superblock();
    write_copy(&region_file(&dir), &Superblock { generation: 1, ..stranger });
    assert!(matches!(Region::open(dir.path()), Err(Error::Mixed { .. })));
}

/// Mapped behind its end, a truncated file is SIGBUS.
#[test]
fn a_file_of_another_size_is_refused_with_both_sizes() {
    let dir = place_with_region();
    let file = region_file(&dir);
    for len in [BYTES - 1, BYTES - (1 << 20), 4096, BYTES + 4096] {
        file.set_len(len).unwrap();
        let error = Region::open(dir.path()).unwrap_err();
        let sizes = matches!(error, Error::FileSize { found, expected: BYTES, .. } if found == len);
        assert!(sizes, "{error}");
    }
}

#[test]
fn foreign_files_are_refused() {
    for content in [&b"dear diary"[..], b"", &vec![0; 16 << 20]] {
        let dir = place();
        fs::write(dir.path().join("region"), content).unwrap();
        assert!(matches!(Region::open(dir.path()), Err(Error::Foreign { .. })));
        assert!(matches!(create(dir.path()), Err(Error::Exists { .. })));
        assert_eq!(fs::read(dir.path().join("region")).unwrap(), content);
    }
    let dir = place();
    fs::create_dir(dir.path().join("region")).unwrap();
    assert!(matches!(Region::open(dir.path()), Err(Error::NotAFile { .. })));
}

#[test]
fn opening_where_nothing_is_leaves_nothing() {
    let dir = place();
    assert!(matches!(Region::open(dir.path()), Err(Error::NoRegion { .. })));
    let missing = dir.path().join("missing");
    assert!(matches!(Region::open(&missing), Err(Error::NoRegion { .. })));
    assert!(!Region::exists(&missing).unwrap());
    assert_eq!(names(dir.path()), [""; 0]);
}

/// "Operation not permitted" alone would not say whose permission for what.
#[test]
fn a_missing_permission_is_named() {
    let dir = place_with_region();
    let path = dir.path().join("region");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    // Root may open every file by these rights, which this thread, and no other, gives up.
    let mut rights = capabilities(None).unwrap();
    rights.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    set_capabilities(None, rights).unwrap();
    assert!(matches!(Region::open(dir.path()), Err(Error::Permission { .. })));
}

/// Filling the disk to the brim before finding out would take others down.
#[test]
fn a_region_that_does_not_fit_is_refused_before_anything_is_written() {
    let dir = place();
    let stat = rustix::fs::statvfs(dir.path()).unwrap();
    let needed = 16 << 40;
    if stat.f_bavail * stat.f_frsize >= needed {
        println!("skipped: {} has more than 16 TiB left", dir.path().display());
        return;
    }
    let made = dir.path().join("a/b");
    let geometry = Geometry::new(needed).unwrap();
    let limit = getrlimit(Resource::Fsize).current;
    let error = Region::create(&made, geometry, MediumKind::Disk, &mut |_| panic!("not written"));
    let error = error.unwrap_err();
    let space = matches!(error, Error::NoSpace { needed: bytes, .. } if bytes == needed);
    assert!(space || limit.is_some(), "{error}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_file_size_limit_is_named_before_it_kills_the_process() {
    if let Some(dir) = is_child() {
        let error = create(&dir).unwrap_err();
        let limit = matches!(error, Error::FileLimit { needed: BYTES, .. });
        assert!(limit, "{error}");
        return;
    }
    let dir = place();
    let test = "a_file_size_limit_is_named_before_it_kills_the_process";
    succeeds(child(test, dir.path(), "ulimit -f 4096;"));
    assert_eq!(names(dir.path()), ["lock"]);
}

/// D9: half a region is none, and its space comes back.
#[test]
fn a_creation_that_fails_halfway_leaves_nothing() {
    if let Some(dir) = is_child() {
        // The limit falls while the zeroes are written: the next write fails.
        let mut fall = |_| {
            let hard = getrlimit(Resource::Fsize).maximum;
            let limit = Rlimit { current: Some(5 << 20), maximum: hard };
            setrlimit(Resource::Fsize, limit).unwrap();
        };
        let error = Region::create(&dir, geometry(), MediumKind::Disk, &mut fall).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        return;
    }
    let dir = place();
    let test = "a_creation_that_fails_halfway_leaves_nothing";
    succeeds(child(test, &dir.path().join("made"), "trap '' XFSZ;"));
    assert_eq!(names(dir.path()), [""; 0]);
    create(dir.path()).unwrap();
}

/// A file system that is really full, where this user may mount one.
#[test]
fn a_full_file_system_is_named_with_both_numbers() {
    if let Some(dir) = is_child() {
        let error = create(&dir.join("made")).unwrap_err();
        let space = matches!(error, Error::NoSpace { needed: BYTES, available, .. }
            if available.is_some_and(|left| (11 << 20..=12 << 20).contains(&left)));
        assert!(space, "{error}");
        assert_eq!(names(&dir), [""; 0]);
        return;
    }
    let dir = place();
    let mount = "unshare -rm mount -t tmpfs -o size=12m none";
    let may = Command::new("sh").arg("-c").arg(format!("{mount} \"$0\"")).arg(dir.path()).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("skipped: this user may not mount a tmpfs in a namespace of its own");
        return;
    }
    let test = "a_full_file_system_is_named_with_both_numbers";
    let mounted =
        format!("exec unshare -rm sh -c 'mount -t tmpfs -o size=12m none \"${CHILD}\" &&");
    let child = Command::new("sh")
        .arg("-c")
        .arg(format!("{mounted} exec \"$0\" --exact {test} --nocapture' \"$0\""))
        .arg(env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    succeeds(child.unwrap());
}

#[test]
fn direct_io_works_on_a_disk() {
    let dir = place_with_region();
    if shm_probe(dir.path()).is_ok() {
        println!("skipped: {} is in memory", dir.path().display());
        return;
    }
    let region = Region::open(dir.path()).unwrap();
    let file = region.open_direct().unwrap();
    let mut memory = vec![0; 8192];
    let lead = memory.as_ptr().align_offset(4096);
    file.read_exact_at(&mut memory[lead..lead + 4096], 0).unwrap();
    let superblock = Superblock::decode(&memory[lead..lead + 4096], 0).unwrap();
    assert_eq!(superblock, *region.superblock());
}

/// Memory that takes direct I/O would be served as "survives power loss".
#[test]
fn a_region_in_memory_is_no_disk() {
    let Some(dir) = memory_place() else { return };
    let made = dir.path().join("made");
    let error = create(&made).unwrap_err();
    assert!(matches!(error, Error::NoDirectIo { .. }), "{error}");
    assert!(error.to_string().contains("tmpfs"), "{error}");
    assert_eq!(names(dir.path()), [""; 0]);

    Region::create(&made, geometry(), MediumKind::Shm, &mut |_| {}).unwrap();
    let error = Region::open(&made).unwrap().open_direct().unwrap_err();
    assert!(matches!(error, Error::NoDirectIo { .. }), "{error}");
}

#[test]
fn a_region_in_memory_is_mapped() {
    let Some(dir) = memory_place() else { return };
    let dir = dir.path().join("made");
    Region::create(&dir, geometry(), MediumKind::Shm, &mut |_| {}).unwrap();
    let region = Region::open(&dir).unwrap();
    assert_eq!(region.superblock().commit_align, 64);
    let frames = Frames::shared(region.file(), geometry()).unwrap();
    let block = frames.bytes(geometry().superblock(0));
    assert_eq!(Superblock::decode(block, 0).as_ref(), Ok(region.superblock()));
}

#[test]
fn shm_is_refused_where_files_are_not_in_memory() {
    let dir = place();
    if shm_probe(dir.path()).is_ok() {
        println!("skipped: {} is in memory", dir.path().display());
        return;
    }
    let made = dir.path().join("made");
    let error = Region::create(&made, geometry(), MediumKind::Shm, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::NotInMemory { .. }), "{error}");
    assert!(error.to_string().contains("/dev/shm/impasto"), "{error}");
    assert_eq!(names(dir.path()), [""; 0]);
}

fn memory_place() -> Option<TempDir> {
    let shm = Path::new("/dev/shm");
    if shm_probe(&shm.join("not/yet")).is_err() {
        println!("skipped: /dev/shm is not in memory");
        return None;
    }
    Some(tempfile::tempdir_in(shm).unwrap())
}
