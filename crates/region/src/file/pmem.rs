//! A region's file on persistent memory, below a file system with DAX: tried out, never believed
//! from a mount option, and explained where it is refused.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{FsWord, OFlags, fstatfs},
    io::Errno,
};

use super::{
    REGION, device,
    probe::{is_in_memory, name, nearest},
    sysfs::{Device, Sysfs},
};
use crate::{Error, Span, frames::try_sync, layout::BLOCK_BYTES};

/// Checks that `data` is a `/dev/dax` that persists, or a directory, which need not exist yet,
/// whose files are on persistent memory and can be mapped with `MAP_SYNC`. Leaves nothing behind.
///
/// # Errors
/// [`Error::NoMapSync`] or [`Error::Device`], with the reason and what to do; others if it cannot
/// be found out.
pub fn pmem_probe(data: &Path) -> Result<(), Error> {
    let sysfs = Sysfs::system();
    if device::is_device(data)? {
        return device::Dax::open(data, &sysfs).map(drop);
    }
    // DAX is a property of a file, so the region's is asked if it is there.
    match OpenOptions::new().read(true).write(true).open(data.join(REGION)) {
        Ok(file) => probe_file(&file, data, &sysfs),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let there = nearest(data);
            probe_file(&nameless(&there)?, &there, &sysfs)
        }
        Err(error) => Err(Error::io("open", data.join(REGION))(error)),
    }
}

/// Creates a file without a name, which nobody has to remove.
fn nameless(dir: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let flags = i32::try_from(OFlags::TMPFILE.bits()).expect("a flag is a positive int");
    options.read(true).write(true).mode(0o600).custom_flags(flags);
    options.open(dir).or_else(|error| match Errno::from_io_error(&error) {
        // The file systems that have DAX have these files, too. This directory can still say where
        // it is.
        Some(Errno::OPNOTSUPP | Errno::ISDIR) => File::open(dir).map_err(Error::io("open", dir)),
        _ => Err(Error::io("write", dir)(error)),
    })
}

/// Checks that `file`, at `path`, can be mapped with `MAP_SYNC`.
pub(super) fn probe_file(file: &File, path: &Path, sysfs: &Sysfs) -> Result<(), Error> {
    let Err(error) = try_sync(file) else { return Ok(()) };
    let refused = [Errno::OPNOTSUPP, Errno::INVAL, Errno::NODEV].map(Some);
    if !refused.contains(&Errno::from_io_error(&error)) {
        return Err(Error::io("map", path)(error));
    }
    let kind = fstatfs(file).map_err(Error::io("examine", path))?.f_type;
    let number = file.metadata().map_err(Error::io("examine", path))?.dev();
    let reason = reason(kind, sysfs.block(number).as_ref());
    Err(Error::NoMapSync { path: path.into(), reason })
}

/// Says why a file on such a file system and device is refused, and what to do.
fn reason(kind: FsWord, device: Option<&Device>) -> String {
    if is_in_memory(kind) {
        return format!(
            "{} keeps files in ordinary memory; choose a directory on persistent memory, or say \
             --medium shm, which does not survive a power loss",
            name(kind)
        );
    }
    let Some(device) = device else {
        return format!(
            "{} does not map it; choose a directory on ext4 or xfs, mounted with -o dax, or say \
             --medium disk",
            name(kind)
        );
    };
    let part = device.parts().into_iter().find(|part| part.nd_region().is_some());
    let Some(region) = part.as_ref().unwrap_or(device).nd_region() else {
        return format!(
            "{} is an ordinary disk; choose a directory on persistent memory, or say --medium disk",
            device.name()
        );
    };
    explain(device, region.is_virtio())
}

fn explain(device: &Device, is_virtio: bool) -> String {
    let name = device.name();
    if is_virtio {
        return format!(
            "{name} is virtio-pmem, which the host has to be asked to make durable: flushing lines \
             is not enough; say --medium disk"
        );
    }
    if !device.has_dax() {
        let remake = match device.namespace() {
            Some(namespace) => format!(
                "make it anew with `ndctl create-namespace -f -e {namespace} -m fsdax`, which \
                 destroys what is on it, then mkfs, and mount -o dax"
            ),
            None => "all of its parts need DAX".to_owned(),
        };
        return format!(
            "{name} has no DAX: its namespace is raw or in sector mode, and some file systems \
             (xfs) mount it all the same and turn DAX off without a word; {remake}"
        );
    }
    format!(
        "{name} has DAX, but it is off for this file; mount the file system with -o dax (its \
         blocks have to be as large as a page, mkfs -b 4096), and look what the kernel said then \
         (dmesg)"
    )
}

/// Returns the bytes of `file` that are on bad blocks.
///
/// Where the blocks of a file are, its file system knows. If there are bad blocks at all on its
/// device, all of the file is read once: `read()` returns an error where a load would end the
/// process.
pub(super) fn bad_blocks(file: &File, sysfs: &Sysfs) -> io::Result<Vec<Span>> {
    let metadata = file.metadata()?;
    match sysfs.block(metadata.dev()) {
        Some(device) if device.has_bad_blocks() => {
            Ok(unreadable(metadata.len(), |bytes, at| file.read_exact_at(bytes, at)))
        }
        _ => Ok(Vec::new()),
    }
}

/// Returns which blocks of `len` bytes cannot be read.
fn unreadable(len: u64, read_at: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Vec<Span> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let mut memory = vec![0; usize::try_from(CHUNK_BYTES).expect("a chunk fits memory")];
    let mut readable = |span: Span| {
        let len = usize::try_from(span.len).expect("at most a chunk");
        read_at(&mut memory[..len], span.at).is_ok()
    };
    let pieces = |span: Span, step: u64| {
        let starts = (span.at..span.end()).step_by(usize::try_from(step).expect("fits memory"));
        starts.map(move |at| Span::new(at, step.min(span.end() - at)))
    };
    let mut bad: Vec<Span> = Vec::new();
    for chunk in pieces(Span::new(0, len), CHUNK_BYTES) {
        if readable(chunk) {
            continue;
        }
        for block in pieces(chunk, BLOCK_BYTES) {
            match bad.last_mut() {
                _ if readable(block) => {}
                Some(last) if last.end() == block.at => last.len += block.len,
                _ => bad.push(block),
            }
        }
    }
    bad
}

/// Returns true if the caches of the CPU persist, too, below `file`.
pub(super) fn caches_persist(file: &File, sysfs: &Sysfs) -> bool {
    let number = file.metadata().map(|metadata| metadata.dev());
    let device = number.ok().and_then(|number| sysfs.block(number));
    device.is_some_and(|device| device.caches_persist())
}

/// Says what a block device is, and what to do with it.
pub(super) fn block_device(path: &Path, sysfs: &Sysfs) -> String {
    const DISK: &str = "a disk; make a file system on it, mount it, and name a directory there";
    let number = fs::metadata(path).map(|metadata| metadata.rdev());
    let Some(device) = number.ok().and_then(|number| sysfs.block(number)) else {
        return DISK.to_owned();
    };
    match device.nd_region() {
        None => return DISK.to_owned(),
        // The host makes it durable as a disk does, so that is how it is served.
        Some(region) if region.is_virtio() => {
            return format!("virtio-pmem, which serves as {DISK}");
        }
        Some(_) => {}
    }
    let namespace = device.namespace().unwrap_or_else(|| "namespaceX.Y".to_owned());
    let (mode, remake) = if device.has_dax() {
        ("", String::new())
    } else {
        let command = format!("`ndctl create-namespace -f -e {namespace} -m fsdax`, then ");
        (" without DAX (raw or in sector mode)", command)
    };
    format!(
        "persistent memory as a block device{mode}; {remake}make ext4 or xfs on it, mount it with \
         -o dax, and name a directory there; or turn it into a /dev/dax with `ndctl \
         create-namespace -f -e {namespace} -m devdax`; both destroy what is on it"
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::sysfs::made_up::{ND_REGION, Tree},
        *,
    };

    const EXT4: FsWord = 0xef53;
    const TMPFS: FsWord = 0x0102_1994;

    /// "Operation not supported" alone would send the user to read kernel sources.
    #[test]
    fn a_refusal_says_why_and_what_to_do() {
        let says = |kind, device: Option<&Device>, words: &[&str]| {
            let text = reason(kind, device);
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
        };
        says(TMPFS, None, &["tmpfs", "ordinary memory", "--medium shm"]);
        says(EXT4, None, &["ext4", "-o dax", "--medium disk"]);
        let tree = Tree::new();
        tree.device("block", 7, "devices/pci/block/sda/sda1");
        says(EXT4, tree.sysfs().block(7).as_ref(), &["sda1", "ordinary disk", "--medium disk"]);

        let remake = "ndctl create-namespace -f -e namespace0.0 -m fsdax";
        let raw = tree.pmem(8, "namespace0.0", false);
        says(EXT4, Some(&raw), &["pmem0 has no DAX", "raw", "without a word", remake]);
        let sector = tree.pmem(9, "pfn0.0", false);
        says(EXT4, Some(&sector), &["in sector mode", remake]);
        let off = tree.pmem(10, "pfn0.0x", true);
        says(EXT4, Some(&off), &["pmem0 has DAX, but it is off", "-o dax", "mkfs -b 4096"]);

        tree.write("devices/acpi/ndbus0/provider", "virtio-pmem\n");
        says(EXT4, Some(&off), &["virtio-pmem", "the host", "--medium disk"]);
    }

    /// What cannot be mapped here must not be served as persistent, and a probe leaves nothing.
    #[test]
    fn a_place_that_is_not_persistent_memory_is_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let error = pmem_probe(&dir.path().join("not/yet")).unwrap_err();
        assert!(matches!(error, Error::NoMapSync { .. }), "{error}");
        assert!(error.to_string().contains("tmpfs"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn devices_that_are_no_dax_are_refused_by_what_they_are() {
        let error = pmem_probe(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.starts_with("/dev/null is a device that cannot hold a region"), "{error}");
        let tree = Tree::new();
        let file = tempfile::NamedTempFile::new().unwrap();
        // An ordinary file has the device number 0, as far as it has one.
        let says = |words: &[&str]| {
            let text = block_device(file.path(), &tree.sysfs());
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        says(&["a disk", "make a file system"]);
        tree.pmem(0, "namespace0.0", false);
        says(&["raw", "-e namespace0.0 -m fsdax", "-m devdax", "destroy"]);
        tree.write("devices/acpi/ndbus0/provider", "virtio-pmem\n");
        says(&["virtio-pmem, which serves as a disk", "make a file system"]);
    }

    /// A file is read whole before it is mapped if its device has bad blocks, and only then.
    #[test]
    fn blocks_that_cannot_be_read_are_listed() {
        let bad = [Span::new(4096, 1), Span::new(8191, 2), (Span::new(3 << 20, 512))];
        let read = |bytes: &mut [u8], at: u64| {
            let span = Span::new(at, bytes.len() as u64);
            let hit = bad.iter().any(|bad| bad.overlaps(span));
            if hit { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        };
        let listed = unreadable((3 << 20) + 8192, read);
        assert_eq!(listed, [Span::new(4096, 8192), Span::new(3 << 20, 4096)]);
        assert_eq!(unreadable(8192, |_, _| Ok(())), []);
    }

    #[test]
    fn a_file_on_a_device_with_bad_blocks_elsewhere_is_not_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        let tree = Tree::new();
        let device = file.metadata().unwrap().dev();
        tree.device("block", device, &format!("{ND_REGION}/pfn0.0/block/pmem0/pmem0p1"));
        let sysfs = tree.sysfs();
        assert!(!sysfs.block(device).unwrap().has_bad_blocks());
        tree.write(&format!("{ND_REGION}/pfn0.0/block/pmem0/badblocks"), "8 1\n");
        assert!(sysfs.block(device).unwrap().has_bad_blocks());
        assert_eq!(bad_blocks(&file, &sysfs).unwrap(), []);
        assert!(!caches_persist(&file, &sysfs));
    }
}
