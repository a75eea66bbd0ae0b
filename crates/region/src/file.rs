//! A region's file: opened, locked, checked.
//!
//! ```text
//! DIR/region        the region
//! DIR/region.new    a region that is being created, or was when the power failed
//! DIR/lock          locked by whoever has the region open; holds its process number
//! ```

mod create;
mod lock;
mod probe;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::BorrowedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

pub use probe::shm_probe;

use lock::Lock;

use crate::{
    Error,
    layout::{BLOCK_BYTES, BLOCK_LEN, Geometry, MediumKind, Superblock, SuperblockError},
};

/// An open region. Nobody else has it open as long as this exists.
#[derive(Debug)]
pub struct Region {
    file: File,
    path: PathBuf,
    superblock: Superblock,
    damaged: Option<(u64, SuperblockError)>,
    lock: Lock,
}

impl Region {
    /// Creates the region of a directory, and the directory if it is missing.
    ///
    /// `progress` is told, from time to time, how many bytes of the region are written. On `shm`
    /// the file is allocated at once; otherwise zeroes are really written, so that no later write
    /// has to allocate or convert a block.
    ///
    /// # Durability
    /// The region is there and whole, or not there (D9): it gets its name after all of it is
    /// synced.
    ///
    /// # Errors
    /// If there is a region, someone is working on one, it does not fit, or the directory cannot be
    /// what `medium` needs: on `disk` it has direct I/O, on `shm` it is in memory. Nothing is left
    /// behind.
    pub fn create(
        dir: &Path,
        geometry: Geometry,
        medium: MediumKind,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        create::create(dir, geometry, medium, progress)
    }

    /// Opens the region of a directory and takes its lock.
    ///
    /// # Errors
    /// If there is none, someone has it open, or it is not what its superblocks say.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        if !Self::exists(dir)? {
            return Err(Error::NoRegion { dir: dir.into() });
        }
        let path = dir.join(REGION);
        let what = fs::metadata(&path).map_err(Error::io("open", &path))?;
        if !what.is_file() {
            return Err(Error::NotAFile { path });
        }
        let lock = Lock::take(dir)?;
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(Error::io("open", &path))?;
        let file_bytes = file.metadata().map_err(Error::io("open", &path))?.len();

        let (superblock, damaged) = choose(&path, Copies::read(&file, file_bytes))?;
        let expected = superblock.geometry.region_bytes();
        if expected != file_bytes {
            return Err(Error::FileSize { path, found: file_bytes, expected });
        }
        Ok(Self { file, path, superblock, damaged, lock })
    }

    /// Returns true if the directory has a region, whether or not it can be opened.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn exists(dir: &Path) -> Result<bool, Error> {
        let path = dir.join(REGION);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("look for", path)(error)),
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

    /// Returns the file, open for reading and writing through the page cache.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
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
    /// survive what the disk medium promises to survive.
    pub fn open_direct(&self) -> Result<File, Error> {
        probe::open_direct(&self.path)
    }
}

const REGION: &str = "region";

/// What was found in the places of the two superblocks.
struct Copies {
    found: [Result<Superblock, SuperblockError>; 2],
    /// True if copy 1 was never written.
    second_is_blank: bool,
}

impl Copies {
    fn read(file: &File, file_bytes: u64) -> Self {
        let mut blocks = [[0; BLOCK_LEN]; 2];
        let places = [0, file_bytes.saturating_sub(BLOCK_BYTES)];
        // A block that cannot be read is a damaged copy: there are two of them for that reason.
        let read = [0, 1].map(|copy| file.read_exact_at(&mut blocks[copy], places[copy]));
        let decode = |copy: usize| match &read[copy] {
            Ok(()) => Superblock::decode(&blocks[copy], copy as u64),
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
    copies: Copies,
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
