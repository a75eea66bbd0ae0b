//! A look at a region that need not be whole, and that nobody is to serve: for those who inspect,
//! verify and repair it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    Copies, Place, REGION, Region, choose,
    device::{self, Dax},
    lock::Lock,
    probe,
    sysfs::Sysfs,
};
use crate::{
    Error,
    layout::{Geometry, Superblock, SuperblockError},
};

/// A region's file or device, locked, whatever stands in it.
#[derive(Debug)]
pub struct Examined {
    place: Place,
    path: PathBuf,
    /// Of the file, or of the region that the device seems to hold.
    bytes: u64,
    copies: Copies,
    /// `None` on a file system that is mounted to be read only: nobody serves the region there.
    _lock: Option<Lock>,
}

impl Examined {
    /// Opens the region of a directory, or on a `/dev/dax`, for reading, and takes its lock.
    ///
    /// # Errors
    /// If there is none, it cannot be read, or someone has it open.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_as(dir, OpenOptions::new().read(true))
    }

    /// Likewise, for reading and writing.
    ///
    /// # Errors
    /// Likewise.
    pub fn open_to_write(dir: &Path) -> Result<Self, Error> {
        Self::open_as(dir, OpenOptions::new().read(true).write(true))
    }

    fn open_as(dir: &Path, options: &OpenOptions) -> Result<Self, Error> {
        if device::is_device(dir)? {
            return Self::open_device(dir);
        }
        if !Region::exists(dir)? {
            return Err(Error::NoRegion { dir: dir.into() });
        }
        let path = dir.join(REGION);
        let what = fs::metadata(&path).map_err(Error::io("open", &path))?;
        if !what.is_file() {
            return Err(Error::NotAFile { path });
        }
        let lock = match Lock::take(dir) {
            Ok(lock) => Some(lock),
            Err(Error::Io { error, .. }) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                None
            }
            Err(error) => return Err(error),
        };
        let file = options.open(&path).map_err(Error::io("open", &path))?;
        let lock = lock.map(|lock| lock.and_region(&file, dir)).transpose()?;
        let file_bytes = file.metadata().map_err(Error::io("open", &path))?.len();
        let read_at = |bytes: &mut [u8], at| file.read_exact_at(bytes, at);
        let copies = Copies::read(read_at, file_bytes, Superblock::decode_to_read);
        Ok(Self { place: Place::File(file), path, bytes: file_bytes, copies, _lock: lock })
    }

    fn open_device(path: &Path) -> Result<Self, Error> {
        let dax = Dax::open(path, &Sysfs::system())?;
        let lock = Some(Lock::of_device(&dax.file, path)?);
        let copies = dax.copies(Superblock::decode_to_read)?;
        // A region may be smaller than its device.
        let said = copies.found.iter().flatten().map(|found| found.geometry.region_bytes()).next();
        let bytes = said.unwrap_or(u64::MAX).min(dax.bytes());
        Ok(Self { place: Place::Device(dax), path: path.into(), bytes, copies, _lock: lock })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's length; of a device, that of the region on it.
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns what stands in the places of the two superblocks.
    pub fn copies(&self) -> [Result<Superblock, SuperblockError>; 2] {
        self.copies.found
    }

    /// Returns true if copy 1 was never written: until a region is served for the first time there
    /// is only copy 0.
    pub fn second_is_blank(&self) -> bool {
        self.copies.second_is_blank
    }

    /// Returns the superblock that holds, and what is wrong with the other copy.
    ///
    /// # Errors
    /// If none holds, or it is not that of this file.
    pub fn superblock(&self) -> Result<(Superblock, Option<(u64, SuperblockError)>), Error> {
        let (superblock, damaged) = choose(&self.path, &self.copies)?;
        let expected = superblock.geometry.region_bytes();
        if expected != self.bytes {
            let (path, found) = (self.path.clone(), self.bytes);
            return Err(Error::FileSize { path, found, expected });
        }
        Ok((superblock, damaged))
    }

    /// Returns the geometry that the file's length tells, if no superblock does.
    pub fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.bytes)
    }

    /// Fills `bytes` from the region's byte `at` on.
    ///
    /// # Errors
    /// If the medium cannot read that.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match &self.place {
            Place::File(file) => file.read_exact_at(bytes, at),
            Place::Device(dax) => dax.read_at(bytes, at),
        }
    }

    /// Opens the file once more, to be read past the page cache in blocks of 4 KiB; `None` where
    /// that does not work.
    pub fn open_direct(&self) -> Option<File> {
        match self.place {
            Place::File(_) => probe::open_direct_to_read(&self.path),
            Place::Device(_) => None,
        }
    }

    /// Writes `bytes` at the region's byte `at`.
    ///
    /// # Durability
    /// None before [`sync`](Self::sync).
    ///
    /// # Errors
    /// If the medium fails, or the region was opened to be read.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        let written = match &self.place {
            Place::File(file) => file.write_all_at(bytes, at),
            Place::Device(dax) => dax.write_at(bytes, at),
        };
        written.map_err(Error::io("write", &self.path))
    }

    /// Waits until all that was written is on the medium.
    ///
    /// # Durability
    /// What was written before survives whatever the medium survives.
    ///
    /// # Errors
    /// If the medium fails: then nothing is known of what was written (D7).
    pub fn sync(&self) -> Result<(), Error> {
        match &self.place {
            Place::File(file) => file.sync_all().map_err(Error::io("sync", &self.path)),
            // It was durable when it was written.
            Place::Device(_) => Ok(()),
        }
    }

    /// Writes a superblock to the copy that its generation belongs to, and waits for it (D9).
    ///
    /// # Durability
    /// It holds when this returns.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at) and [`sync`](Self::sync).
    pub fn write_superblock(&self, superblock: &Superblock) -> Result<(), Error> {
        let at = superblock.geometry.superblock(superblock.copy()).at;
        self.write_at(&superblock.encode(), at)?;
        self.sync()
    }
}

impl Region {
    /// Returns the name of the file system, if it writes a block elsewhere each time: space that is
    /// there once need not be there for the next overwrite.
    pub fn copy_on_write(&self) -> Option<String> {
        match &self.place {
            Place::File(file) => probe::copy_on_write(file),
            Place::Device(_) => None,
        }
    }
}
