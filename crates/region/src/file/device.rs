//! A region on a `/dev/dax`: the device is the region, without a file system.
//!
//! It has no `read()`, and no name that could be given last (D9): that a region is there is said by
//! its superblocks alone.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    Copies, Decode, Place, Region, choose,
    create::{Creation, chunks},
    lock::Lock,
    pmem,
    sysfs::Sysfs,
};
use crate::{
    CpuFlush, Error, Frames, Span,
    frames::ReadMap,
    layout::{BLOCK_BYTES, BLOCK_LEN, Geometry, MediumKind, SEGMENT_BYTES, Superblock},
};

/// Returns true if `data` is a character device, which may be a `/dev/dax`.
///
/// # Errors
/// [`Error::Device`] for a block device, which is neither a region nor the place of one.
pub(super) fn is_device(data: &Path) -> Result<bool, Error> {
    // What cannot be looked at is no device; whoever opens it will say why.
    let Ok(metadata) = fs::metadata(data) else { return Ok(false) };
    if metadata.file_type().is_block_device() {
        let what = pmem::block_device(data, &Sysfs::system());
        return Err(Error::Device { path: data.into(), what });
    }
    Ok(metadata.file_type().is_char_device())
}

/// An open `/dev/dax`.
#[derive(Debug)]
pub(super) struct Dax {
    pub(super) file: File,
    path: PathBuf,
    /// Bytes that a region may have at most: the device's, in whole segments.
    bytes: u64,
    /// What the length of a mapping is a multiple of.
    align: u64,
    bad: Vec<Span>,
    pub(super) caches_persist: bool,
    /// To read from, as long as there are no frames.
    reader: Mutex<Option<ReadMap>>,
}

impl Dax {
    pub(super) fn open(path: &Path, sysfs: &Sysfs) -> Result<Self, Error> {
        let refusal = |what: &str| Error::Device { path: path.into(), what: what.into() };
        let number = fs::metadata(path).map_err(Error::io("examine", path))?.rdev();
        let device = sysfs.char(number).filter(|device| device.is_dax()).ok_or_else(|| {
            refusal("a device that cannot hold a region; name a directory, or a /dev/dax")
        })?;
        let Some(region) = device.nd_region() else {
            return Err(refusal(
                "memory that, as far as the system says, does not persist (no NVDIMM region is \
                 behind it); name a directory in memory and say --medium shm",
            ));
        };
        if region.is_virtio() {
            return Err(refusal(
                "virtio-pmem, which the host has to be asked to make durable: flushing lines is \
                 not enough; make a file system on it (`ndctl create-namespace -m fsdax`) and say \
                 --medium disk",
            ));
        }
        let bytes = device.dax_bytes().ok_or_else(|| refusal("a /dev/dax of unknown size"))?;
        let align = device.dax_align().unwrap_or(ALIGN);
        let bad = device.dax_bad_blocks(bytes).map_err(|unread| {
            refusal(&format!(
                "a /dev/dax in an NVDIMM region with bad blocks, and only {} tells whether they \
                 are in it; give this user the right to read that file, or run as root",
                unread.display()
            ))
        })?;
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(Error::io("open", path))?;
        Ok(Self {
            file,
            path: path.into(),
            bytes: bytes - bytes % SEGMENT_BYTES,
            align,
            bad,
            caches_persist: device.caches_persist(),
            reader: Mutex::new(None),
        })
    }

    /// Returns the bytes that a region on it may have at most.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads through a mapping, which stays for the next call.
    pub(super) fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let map = match reader.take() {
            Some(map) => map,
            None => ReadMap::new(&self.file, self.bytes, self.align)?,
        };
        reader.insert(map).read_at(bytes, at)
    }

    /// Writes through a mapping.
    ///
    /// # Durability
    /// The bytes are durable when this returns.
    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let whole = Geometry::new(self.bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let mut frames = self.frames(whole)?;
        frames.store(at, bytes);
        let cpu = CpuFlush::detect();
        cpu.flush(&frames, Span::new(at, bytes.len() as u64));
        cpu.fence();
        Ok(())
    }

    pub(super) fn frames(&self, geometry: Geometry) -> io::Result<Frames> {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Frames::device(&self.file, geometry, self.align)
    }

    /// Refuses if a bad block is inside `span`: reading it would end the process.
    fn check_bad_blocks(&self, span: Span) -> Result<(), Error> {
        let inside = self.bad.iter().filter_map(|bad| {
            let (from, to) = (bad.at.max(span.at), bad.end().min(span.end()));
            (from < to).then(|| Span::new(from, to - from))
        });
        let spans: Vec<_> = inside.collect();
        if spans.is_empty() {
            return Ok(());
        }
        Err(Error::BadBlocks { path: self.path.clone(), spans })
    }

    /// Returns true if nothing stands where the superblocks of a region of all of the device do.
    fn is_blank(&self) -> Result<bool, Error> {
        let places = [0, self.bytes.saturating_sub(BLOCK_BYTES)];
        for at in places {
            self.check_bad_blocks(Span::new(at, BLOCK_BYTES))?;
            let mut block = [0; BLOCK_LEN];
            self.read_at(&mut block, at).map_err(Error::io("read", &self.path))?;
            if block.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the superblock copies.
    ///
    /// Where the second one is, the first one says. If it does not, the second one is looked for at
    /// the end of the device, which is where it is unless a size was given at creation.
    pub(super) fn copies(&self, decode: Decode) -> Result<Copies, Error> {
        self.check_bad_blocks(Span::new(0, BLOCK_BYTES))?;
        let read_at = |bytes: &mut [u8], at| self.read_at(bytes, at);
        let copies = Copies::read(read_at, BLOCK_BYTES, decode);
        let end = match &copies.found[0] {
            Ok(first) => first.geometry.region_bytes().min(self.bytes),
            Err(_) => self.bytes,
        };
        self.check_bad_blocks(Span::new(0, end))?;
        Ok(Copies::read(read_at, end, decode))
    }
}

/// Returns true if something stands where a region's superblocks do.
pub(super) fn exists(path: &Path) -> Result<bool, Error> {
    Dax::open(path, &Sysfs::system())?.is_blank().map(|blank| !blank)
}

pub(super) fn open(path: &Path) -> Result<Region, Error> {
    let dax = Dax::open(path, &Sysfs::system())?;
    let lock = Lock::of_device(&dax.file, path)?;
    open_locked(dax, lock)
}

fn open_locked(dax: Dax, lock: Lock) -> Result<Region, Error> {
    if dax.is_blank()? {
        return Err(Error::NoRegion { dir: dax.path });
    }
    let path = dax.path.clone();
    let (superblock, damaged) = choose(&path, &dax.copies(Superblock::decode)?)?;
    let expected = superblock.geometry.region_bytes();
    if expected > dax.bytes {
        return Err(Error::FileSize { path, found: dax.bytes, expected });
    }
    let medium = superblock.medium;
    Ok(Region { place: Place::Device(dax), path, superblock, damaged, medium, lock })
}

/// Makes a region of the device. What stands there is written over only if `overwrite` says so.
///
/// # Durability
/// Until its superblock is durable, which is the last of it, nothing there looks like a region:
/// neither the new one nor one that was there before.
pub(super) fn create(path: &Path, creation: Creation<'_>, overwrite: bool) -> Result<(), Error> {
    let dax = Dax::open(path, &Sysfs::system())?;
    let _lock = Lock::of_device(&dax.file, path)?;
    create_locked(&dax, creation, overwrite)
}

fn create_locked(dax: &Dax, creation: Creation<'_>, overwrite: bool) -> Result<(), Error> {
    let Creation { superblock, fill, progress } = creation;
    let path = &dax.path;
    if superblock.medium != MediumKind::Pmem {
        return Err(Error::DeviceMedium { path: path.clone(), medium: superblock.medium.name() });
    }
    let geometry = superblock.geometry;
    let bytes = geometry.region_bytes();
    if bytes > dax.bytes {
        return Err(Error::DeviceSize { path: path.clone(), needed: bytes, most: dax.bytes });
    }
    dax.check_bad_blocks(Span::new(0, bytes))?;
    if !overwrite && !dax.is_blank()? {
        return Err(match choose(path, &dax.copies(Superblock::decode)?) {
            Err(Error::Foreign { .. }) => Error::NotBlank { path: path.clone() },
            _ => Error::Exists { path: path.clone() },
        });
    }
    erase_ends(dax)?;
    let mut frames = dax.frames(geometry).map_err(Error::io("map", path))?;
    let cpu = CpuFlush::detect();
    let mut store = |at: u64, bytes: &[u8]| {
        frames.store(at, bytes);
        cpu.flush(&frames, Span::new(at, bytes.len() as u64));
    };
    chunks(geometry, fill, |at, bytes| {
        store(at, bytes);
        progress(at + bytes.len() as u64);
        Ok(())
    })?;
    cpu.fence();
    // D9: whole, and only then a region.
    for copy in super::create::copies(superblock) {
        store(geometry.superblock(copy.copy()).at, &copy.encode());
    }
    cpu.fence();
    Ok(())
}

/// Zeroes the first and the last superblock that could be there. The second one of a region that is
/// smaller than the device is found through the first one only.
fn erase_ends(dax: &Dax) -> Result<(), Error> {
    let whole = Geometry::try_from(dax.bytes)?;
    let mut frames = dax.frames(whole).map_err(Error::io("map", &dax.path))?;
    let cpu = CpuFlush::detect();
    for copy in 0..2 {
        let span = whole.superblock(copy);
        frames.store(span.at, &[0; BLOCK_LEN]);
        cpu.flush(&frames, span);
    }
    cpu.fence();
    Ok(())
}

/// What mappings are aligned to if the kernel does not say: a huge page.
const ALIGN: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use tempfile::NamedTempFile;

    use super::*;
    use crate::layout::Superblock;

    const BYTES: u64 = 32 << 20;

    /// A file in place of the device: it maps and locks as one.
    struct Stand {
        file: NamedTempFile,
    }

    impl Stand {
        fn new() -> Self {
            let file = NamedTempFile::new().unwrap();
            file.as_file().set_len(BYTES + SEGMENT_BYTES).unwrap();
            Self { file }
        }

        fn dax(&self, bad: Vec<Span>) -> Dax {
            let file = OpenOptions::new().read(true).write(true).open(self.file.path()).unwrap();
            Dax {
                file,
                path: "/dev/dax0.1".into(),
                bytes: BYTES,
                align: ALIGN,
                bad,
                caches_persist: false,
                reader: Mutex::new(None),
            }
        }

        fn create(&self, bytes: u64, overwrite: bool) -> Result<(), Error> {
            let superblock = Superblock::fresh(Geometry::new(bytes).unwrap(), MediumKind::Pmem);
            let progress = &mut |_| {};
            create_locked(
                &self.dax(vec![]),
                Creation { superblock, fill: None, progress },
                overwrite,
            )
        }

        fn open(&self) -> Result<Region, Error> {
            self.open_with(vec![])
        }

        fn open_with(&self, bad: Vec<Span>) -> Result<Region, Error> {
            let dax = self.dax(bad);
            let lock = Lock::of_device(&dax.file, &dax.path)?;
            open_locked(dax, lock)
        }

        fn write(&self, at: u64, bytes: &[u8]) {
            self.file.as_file().write_all_at(bytes, at).unwrap();
        }
    }

    /// There is no other way to its bytes: it has no `read()`.
    #[test]
    fn a_region_on_a_device_is_created_mapped_and_read() {
        let stand = Stand::new();
        assert!(matches!(stand.open(), Err(Error::NoRegion { .. })));
        stand.create(BYTES, false).unwrap();
        let mut region = stand.open().unwrap();
        assert_eq!(region.superblock().geometry.region_bytes(), BYTES);
        assert_eq!((region.path(), region.data()), (region.data(), Path::new("/dev/dax0.1")));

        let mut block = [0; BLOCK_LEN];
        region.read_at(&mut block, 0).unwrap();
        assert_eq!(Superblock::decode(&block, 0).as_ref(), Ok(region.superblock()));
        let behind = region.read_at(&mut block, BYTES - 100).unwrap_err();
        assert_eq!(behind.kind(), io::ErrorKind::UnexpectedEof);

        region.serve_on(MediumKind::Pmem).unwrap();
        let mut frames = region.map().unwrap();
        frames.store(BLOCK_BYTES, b"hello");
        let busy = region.read_at(&mut block, 0).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        drop(frames);
        region.read_at(&mut block[..5], BLOCK_BYTES).unwrap();
        assert_eq!(&block[..5], b"hello");
    }

    #[test]
    fn a_device_is_served_on_pmem_alone() {
        let stand = Stand::new();
        stand.create(BYTES, false).unwrap();
        let refused = stand.open().unwrap().serve_on(MediumKind::Disk).unwrap_err();
        assert!(matches!(refused, Error::DeviceMedium { medium: "disk", .. }), "{refused}");
        let superblock = Superblock::fresh(Geometry::new(BYTES).unwrap(), MediumKind::Disk);
        let creation = Creation { superblock, fill: None, progress: &mut |_| {} };
        let refused = create_locked(&Stand::new().dax(vec![]), creation, false).unwrap_err();
        assert!(matches!(refused, Error::DeviceMedium { .. }), "{refused}");
    }

    /// A device has no name that says what stands on it: whoever asks for a region of this one gets
    /// somebody else's bytes destroyed.
    #[test]
    fn what_stands_on_a_device_is_written_over_only_if_that_is_said() {
        let (stand, other) = (Stand::new(), Stand::new());
        stand.create(BYTES, false).unwrap();
        let first = stand.open().unwrap().superblock().uuid;
        assert!(matches!(stand.create(BYTES, false), Err(Error::Exists { .. })));
        assert_eq!(stand.open().unwrap().superblock().uuid, first);
        stand.create(BYTES, true).unwrap();
        assert_ne!(stand.open().unwrap().superblock().uuid, first);

        other.write(BYTES - 5, b"diary");
        let refused = other.create(BYTES, false).unwrap_err();
        assert!(matches!(refused, Error::NotBlank { .. }), "{refused}");
        assert!(matches!(other.open(), Err(Error::Foreign { .. })));
        other.create(BYTES, true).unwrap();
        assert!(other.open().is_ok());
    }

    /// D9: without a rename, an old superblock that is still there would make a region of a device
    /// that is half written over.
    #[test]
    fn a_creation_that_breaks_off_leaves_no_region() {
        let stand = Stand::new();
        stand.create(BYTES, false).unwrap();
        let superblock = Superblock::fresh(Geometry::new(BYTES).unwrap(), MediumKind::Pmem);
        let fill = &mut |at: u64, _: &mut [u8]| match at {
            0 => Ok(()),
            _ => Err(Error::NoRegion { dir: "source".into() }),
        };
        let creation = Creation { superblock, fill: Some(fill), progress: &mut |_| {} };
        create_locked(&stand.dax(vec![]), creation, true).unwrap_err();
        assert!(matches!(stand.open(), Err(Error::NoRegion { .. })));
    }

    #[test]
    fn a_size_is_at_most_the_devices() {
        let stand = Stand::new();
        let refused = stand.create(BYTES + SEGMENT_BYTES, false).unwrap_err().to_string();
        assert!(refused.contains("32 MiB at most, 33 MiB needed"), "{refused}");
        stand.create(17 << 20, false).unwrap();
        let region = stand.open().unwrap();
        assert_eq!(region.superblock().geometry.region_bytes(), 17 << 20);
        assert_eq!(region.damaged_copy(), None);
    }

    #[test]
    fn the_second_superblock_of_a_device_holds_if_the_first_is_damaged() {
        let stand = Stand::new();
        stand.create(BYTES, false).unwrap();
        let next = Superblock { generation: 1, ..*stand.open().unwrap().superblock() };
        stand.write(BYTES - BLOCK_BYTES, &next.encode());
        stand.write(100, b"x");
        let region = stand.open().unwrap();
        assert_eq!(region.superblock(), &next);
        assert_eq!(region.damaged_copy().unwrap().0, 0);
    }

    /// A load from a bad block ends the process, with nothing said.
    #[test]
    fn bad_blocks_under_a_region_are_listed_before_they_are_read() {
        let stand = Stand::new();
        stand.create(20 << 20, false).unwrap();
        let behind = Span::new(20 << 20, 4096);
        assert!(stand.open_with(vec![behind]).is_ok());
        for at in [0, 4096, 19 << 20] {
            let bad = vec![Span::new(at, 512), behind];
            let error = stand.open_with(bad).unwrap_err().to_string();
            let range = format!("bytes {at:#x}..{:#x} of the region", at + 512);
            assert!(error.contains(&range) && error.contains("ndctl clear-errors"), "{error}");
        }
    }

    /// Two servers on one device would destroy each other's log.
    #[test]
    fn a_device_is_open_once() {
        let stand = Stand::new();
        stand.create(BYTES, false).unwrap();
        let region = stand.open().unwrap();
        let own = std::process::id();
        assert!(matches!(stand.open(), Err(Error::InUse { pid: Some(pid), .. }) if pid == own));
        drop(region);
        stand.open().unwrap();
    }
}
