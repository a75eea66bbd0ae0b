//! A region's file, or its device: opened, locked, checked.
//!
//! ```text
//! DIR/region        the region
//! DIR/region.new    a region that is being created, or was when the power failed
//! DIR/lock          locked by whoever has the region open; holds its process number
//!
//! /dev/daxX.Y       the region, and its lock
//! ```

mod create;
mod device;
mod examine;
mod lock;
mod pmem;
mod probe;
mod sysfs;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::BorrowedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

pub use create::Fill;
pub use examine::Examined;
pub use pmem::pmem_probe;
pub use probe::shm_probe;

use create::Creation;
use device::Dax;
use lock::Lock;
use sysfs::Sysfs;

use crate::{
    Error, Frames,
    layout::{BLOCK_BYTES, BLOCK_LEN, Geometry, MediumKind, Superblock, SuperblockError},
};

/// An open region. Nobody else has it open as long as this exists.
#[derive(Debug)]
pub struct Region {
    place: Place,
    path: PathBuf,
    superblock: Superblock,
    damaged: Option<(u64, SuperblockError)>,
    /// That of the last run, or the one that is to be.
    medium: MediumKind,
    lock: Lock,
}

#[derive(Debug)]
enum Place {
    File(File),
    Device(Dax),
}

impl Region {
    /// Creates a region: in a directory, which is made if it is missing, or on a `/dev/dax`.
    ///
    /// `progress` is told, from time to time, how many bytes of the region are written. On `shm`
    /// the file is allocated at once; otherwise zeroes are really written, so that no later write
    /// has to allocate or convert a block.
    ///
    /// # Durability
    /// The region is there and whole, or not there (D9): it gets its name, or on a device its
    /// superblock, after all of it is durable.
    ///
    /// # Errors
    /// If there is a region, someone is working on one, it does not fit, or the place cannot be
    /// what `medium` needs: on `disk` it has direct I/O, on `shm` it is in memory, on `pmem` it
    /// maps with `MAP_SYNC`. A device where anything stands is not written to. Nothing is left
    /// behind.
    pub fn create(
        data: &Path,
        geometry: Geometry,
        medium: MediumKind,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let superblock = Superblock::fresh(geometry, medium);
        Self::create_as(data, Creation { superblock, fill: None, progress })
    }

    /// As [`create`](Self::create) on `pmem`, over whatever stands on the `/dev/dax` at `device`.
    ///
    /// # Errors
    /// As `create`; [`Error::Device`] for a directory, where a region can be removed by its name.
    pub fn overwrite(
        device: &Path,
        geometry: Geometry,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        if !device::is_device(device)? {
            let what = "no device, and only there is anything written over; remove the region's \
                        file, or choose another --data";
            return Err(Error::Device { path: device.into(), what: what.into() });
        }
        let superblock = Superblock::fresh(geometry, MediumKind::Pmem);
        device::create(device, Creation { superblock, fill: None, progress }, true)
    }

    /// As [`create`](Self::create), with `superblock` and the bytes that `fill` puts over zeroes,
    /// chunk by chunk, given the offset of each.
    ///
    /// # Errors
    /// As `create`, and what `fill` returns.
    pub fn create_from(
        data: &Path,
        superblock: Superblock,
        fill: Fill<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        Self::create_as(data, Creation { superblock, fill: Some(fill), progress })
    }

    /// As [`create_from`](Self::create_from), in place of this region, which is in a directory.
    /// What is open stays the old one.
    ///
    /// # Durability
    /// The directory has the old region or the new one, whole, whenever the power fails.
    ///
    /// # Errors
    /// As `create_from`; [`Error::Exists`] on a device, which has no place for two.
    pub fn replace(
        &self,
        superblock: Superblock,
        fill: Fill<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        if let Place::Device(_) = self.place {
            return Err(Error::Exists { path: self.path.clone() });
        }
        create::replace(self.data(), Creation { superblock, fill: Some(fill), progress })
    }

    fn create_as(data: &Path, creation: Creation<'_>) -> Result<(), Error> {
        if device::is_device(data)? {
            device::create(data, creation, false)
        } else {
            create::create(data, creation)
        }
    }

    /// Opens the region in a directory or on a `/dev/dax`, and takes its lock.
    ///
    /// # Errors
    /// If there is none, someone has it open, or it is not what its superblocks say.
    pub fn open(data: &Path) -> Result<Self, Error> {
        if device::is_device(data)? {
            return device::open(data);
        }
        if !Self::exists(data)? {
            return Err(Error::NoRegion { dir: data.into() });
        }
        let path = data.join(REGION);
        let what = fs::metadata(&path).map_err(Error::io("open", &path))?;
        if !what.is_file() {
            return Err(Error::NotAFile { path });
        }
        let lock = Lock::take(data)?;
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(Error::io("open", &path))?;
        let lock = lock.and_region(&file, data)?;
        let file_bytes = file.metadata().map_err(Error::io("open", &path))?.len();

        let read_at = |bytes: &mut [u8], at| file.read_exact_at(bytes, at);
        let copies = Copies::read(read_at, file_bytes, Superblock::decode);
        let (superblock, damaged) = choose(&path, &copies)?;
        let expected = superblock.geometry.region_bytes();
        if expected != file_bytes {
            return Err(Error::FileSize { path, found: file_bytes, expected });
        }
        let medium = superblock.medium;
        Ok(Self { place: Place::File(file), path, superblock, damaged, medium, lock })
    }

    /// Returns true if the directory has a region, or something stands on the device, whether or
    /// not it can be opened.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn exists(data: &Path) -> Result<bool, Error> {
        if device::is_device(data)? {
            return device::exists(data);
        }
        let path = data.join(REGION);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("look for", path)(error)),
        }
    }

    /// Returns the bytes of the largest region that a device has room for; `None` for a directory.
    ///
    /// # Errors
    /// If it is no device for a region.
    pub fn device_bytes(data: &Path) -> Result<Option<u64>, Error> {
        if !device::is_device(data)? {
            return Ok(None);
        }
        Dax::open(data, &Sysfs::system()).map(|dax| Some(dax.bytes()))
    }

    /// Says which medium the next run is on. The first superblock that it writes will say so.
    ///
    /// # Errors
    /// If the last run was on another medium and did not stop cleanly, or on `shm`; if it is to go
    /// on on `shm`, and is not in memory; or a device is to be anything but `pmem`.
    pub fn serve_on(&mut self, medium: MediumKind) -> Result<(), Error> {
        let has = self.superblock.medium;
        let (path, asked) = (|| self.data().to_owned(), medium.name());
        if matches!(self.place, Place::Device(_)) && medium != MediumKind::Pmem {
            return Err(Error::DeviceMedium { path: path(), medium: asked });
        }
        if has != medium {
            if has == MediumKind::Shm {
                return Err(Error::NotDurable { path: path(), asked });
            }
            if !self.superblock.clean {
                return Err(Error::NotClean { path: path(), has: has.name(), asked });
            }
            if medium == MediumKind::Shm {
                // There is no way back but to copy it: a slip would take the durability from it.
                shm_probe(self.data())?;
            }
        }
        self.medium = medium;
        Ok(())
    }

    /// Returns the medium to [serve it on](Self::serve_on), which is that of the last run until
    /// another one is named.
    pub fn medium(&self) -> MediumKind {
        self.medium
    }

    /// Maps the region itself, as `shm` and `pmem` serve it: on `pmem` with `MAP_SYNC`.
    ///
    /// There must be no other mapping of it, and nobody else writes to it as long as this exists.
    ///
    /// # Errors
    /// If the medium is `pmem` and the file is not on persistent memory, or on some that has failed
    /// in places: a load from there would end the process (`SIGBUS`). Else what `mmap` returns.
    pub fn map(&self) -> Result<Frames, Error> {
        let geometry = self.superblock.geometry;
        let failed = || Error::io("map", &self.path);
        match &self.place {
            Place::Device(dax) => dax.frames(geometry).map_err(failed()),
            Place::File(file) if self.medium == MediumKind::Pmem => {
                let sysfs = Sysfs::system();
                pmem::probe_file(file, &self.path, &sysfs)?;
                let spans =
                    pmem::bad_blocks(file, &sysfs).map_err(Error::io("read", &self.path))?;
                if !spans.is_empty() {
                    return Err(Error::BadBlocks { path: self.path.clone(), spans });
                }
                Frames::synced(file, geometry).map_err(failed())
            }
            Place::File(file) => Frames::shared(file, geometry).map_err(failed()),
        }
    }

    /// Returns true if stores are durable without a flush, since the power that is left when power
    /// fails is enough for the caches of the CPU, as the kernel says
    /// (`persistence_domain` is `cpu_cache`). Of memory that is not `pmem` it means nothing.
    pub fn caches_persist(&self) -> bool {
        match &self.place {
            Place::Device(dax) => dax.caches_persist,
            Place::File(file) => pmem::caches_persist(file, &Sysfs::system()),
        }
    }

    /// Reads bytes of the region from where it is kept. A device can be read only as long as it is
    /// not [mapped](Self::map).
    ///
    /// # Errors
    /// What the system returns; `UnexpectedEof` behind the region.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match &self.place {
            Place::File(file) => file.read_exact_at(bytes, at),
            Place::Device(dax) => dax.read_at(bytes, at),
        }
    }

    /// Returns the superblock that held when the region was opened.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Returns the superblock copy that was found damaged, and how.
    pub fn damaged_copy(&self) -> Option<(u64, SuperblockError)> {
        self.damaged
    }

    /// Returns the file, open for reading and writing through the page cache; or the device, of
    /// which nothing is read so.
    pub fn file(&self) -> &File {
        match &self.place {
            Place::File(file) => file,
            Place::Device(dax) => &dax.file,
        }
    }

    /// Returns the path of the file or device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the region was opened by: its directory or device.
    pub fn data(&self) -> &Path {
        match self.place {
            Place::File(_) => self.path.parent().expect("a region has a name in its directory"),
            Place::Device(_) => &self.path,
        }
    }

    /// Returns the descriptor that holds the region's lock. As long as a duplicate of it is open,
    /// the region cannot be opened again: give one to whatever may write to the region after
    /// this process has died.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.fd()
    }

    /// Opens the file once more, for direct I/O in blocks of 4 KiB, and reads one to see that it
    /// works.
    ///
    /// # Errors
    /// If direct I/O does not work here, or the file system is in memory: what it holds would not
    /// survive what the disk medium promises to survive. A device has none.
    pub fn open_direct(&self) -> Result<File, Error> {
        probe::open_direct(&self.path)
    }
}

const REGION: &str = "region";

/// What was found in the places of the two superblocks.
#[derive(Debug)]
struct Copies {
    found: [Result<Superblock, SuperblockError>; 2],
    /// True if copy 1 was never written.
    second_is_blank: bool,
}

/// Which superblocks are understood.
type Decode = fn(&[u8], u64) -> Result<Superblock, SuperblockError>;

impl Copies {
    /// Reads them where they are in a region of `bytes`.
    fn read(
        read_at: impl Fn(&mut [u8], u64) -> io::Result<()>,
        bytes: u64,
        decode: Decode,
    ) -> Self {
        let mut blocks = [[0; BLOCK_LEN]; 2];
        let places = [0, bytes.saturating_sub(BLOCK_BYTES)];
        // A block that cannot be read is a damaged copy: there are two of them for that reason.
        let read = [0, 1].map(|copy| read_at(&mut blocks[copy], places[copy]));
        let decode = |copy: usize| match &read[copy] {
            Ok(()) => decode(&blocks[copy], copy as u64),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(SuperblockError::Magic)
            }
            Err(_) => Err(SuperblockError::Unreadable),
        };
        let second_is_blank = read[1].is_ok() && blocks[1].iter().all(|&byte| byte == 0);
        Self { found: [0, 1].map(decode), second_is_blank }
    }
}

/// Returns the superblock that holds, and what is wrong with the other copy.
fn choose(
    path: &Path,
    copies: &Copies,
) -> Result<(Superblock, Option<(u64, SuperblockError)>), Error> {
    use SuperblockError as E;
    let path = || path.to_owned();
    // A copy that verifies but cannot be understood is newer than this program; the other copy may
    // be one that the newer program left behind.
    for (copy, found) in (0..).zip(&copies.found) {
        match *found {
            Ok(_) | Err(E::Magic | E::Checksum | E::Unreadable) => {}
            Err(error) => {
                return Err(Error::Unsupported { path: path(), copy, error });
            }
        }
    }
    match copies.found {
        [Ok(first), Ok(second)] => {
            if first.uuid != second.uuid || first.geometry != second.geometry {
                return Err(Error::Mixed { path: path() });
            }
            let newer = if first.generation > second.generation { first } else { second };
            Ok((newer, None))
        }
        // Of a fresh region only copy 0 is written.
        [Ok(first), Err(_)] if first.generation == 0 && copies.second_is_blank => Ok((first, None)),
        [Ok(first), Err(error)] => Ok((first, Some((1, error)))),
        [Err(error), Ok(second)] => Ok((second, Some((0, error)))),
        [Err(E::Magic), Err(E::Magic)] => Err(Error::Foreign { path: path() }),
        [Err(first), Err(second)] => Err(Error::Damaged { path: path(), first, second }),
    }
}
