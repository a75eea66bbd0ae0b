//! What the kernel says of persistent memory, in sysfs.
//!
//! ```text
//! dev/block/259:0 -> devices/.../ndbus0/region0/pfn0.0/block/pmem0     fs-DAX
//! dev/block/259:0 -> devices/.../ndbus0/region0/namespace0.0/block/pmem0       raw
//! dev/char/252:1  -> devices/.../ndbus0/region0/dax0.1/dax0.1          /dev/dax0.1
//!                                ndbus0/provider                       who has the memory
//!                                ndbus0/region0/persistence_domain     how far to flush
//!                                ndbus0/region0/badblocks              of all the region
//! ```
//!
//! ("Region" is the kernel's word here: interleaved memory, cut into namespaces.)

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::fs::{major, minor};

use crate::Span;

/// The root of sysfs, or of a tree that looks like it.
#[derive(Clone, Debug)]
pub(super) struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// Returns the one of this system.
    pub(super) fn system() -> Self {
        Self::at(Path::new("/sys"))
    }

    /// Returns the one below `root`.
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns the block device with this number; none for file systems without one.
    pub(super) fn block(&self, number: u64) -> Option<Device> {
        self.device("block", number)
    }

    /// Returns the character device with this number.
    pub(super) fn char(&self, number: u64) -> Option<Device> {
        self.device("char", number)
    }

    fn device(&self, class: &str, number: u64) -> Option<Device> {
        let number = format!("{}:{}", major(number), minor(number));
        let dir = fs::canonicalize(self.root.join("dev").join(class).join(number)).ok()?;
        Some(Device { dir })
    }
}

/// A device, by its directory.
#[derive(Clone, Debug)]
pub(super) struct Device {
    dir: PathBuf,
}

impl Device {
    /// Returns the kernel's name for it: `pmem0`, `sda1`, `dax0.1`.
    pub(super) fn name(&self) -> String {
        file_name(&self.dir).to_owned()
    }

    /// Returns true if it is a `/dev/dax`.
    pub(super) fn is_dax(&self) -> bool {
        fs::canonicalize(self.dir.join("subsystem")).is_ok_and(|dir| file_name(&dir) == "dax")
    }

    /// Returns the bytes of a `/dev/dax`.
    pub(super) fn dax_bytes(&self) -> Option<u64> {
        number(&self.dir.join("size"))
    }

    /// Returns what the length of a mapping of a `/dev/dax` is a multiple of.
    pub(super) fn dax_align(&self) -> Option<u64> {
        // Kernels before 5.10 have it at the device that this one is a part of.
        let places = ["align", "../align", "device/align", "../dax_region/align"];
        let align = places.iter().find_map(|place| number(&self.dir.join(place)))?;
        (align > 0).then_some(align)
    }

    /// Returns the NVDIMM region behind it, if that is what it is made of.
    pub(super) fn nd_region(&self) -> Option<NdRegion> {
        let is_region = |dir: &&Path| {
            let bus = dir.parent().is_some_and(|bus| file_name(bus).starts_with("ndbus"));
            bus && file_name(dir).starts_with("region")
        };
        self.dir.ancestors().find(is_region).map(|dir| NdRegion { dir: dir.to_owned() })
    }

    /// Returns the name of the namespace that a block device is made of, as `ndctl` wants it.
    pub(super) fn namespace(&self) -> Option<String> {
        self.dir.ancestors().find_map(|dir| {
            let own = file_name(dir).starts_with("namespace").then(|| file_name(dir).to_owned());
            own.or_else(|| text(&dir.join("namespace")).filter(|name| name.starts_with("namesp")))
        })
    }

    /// Returns false if the block device says that files on it cannot be mapped directly.
    pub(super) fn has_dax(&self) -> bool {
        // A partition has the queue of its disk.
        let dax = self.dir.ancestors().take(2).find_map(|dir| text(&dir.join("queue/dax")));
        dax.as_deref() != Some("0")
    }

    /// Returns the devices that a block device is put together from (device mapper).
    pub(super) fn parts(&self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(self.dir.join("slaves")) else { return Vec::new() };
        let parts = entries.filter_map(|entry| fs::canonicalize(entry.ok()?.path()).ok());
        parts.map(|dir| Self { dir }).collect()
    }

    /// Returns true if a block device, its disk or a part of it has bad blocks; which files they
    /// are under, only its file system knows.
    pub(super) fn has_bad_blocks(&self) -> bool {
        let listed = |dir: &Path| !bad_blocks(dir).is_empty();
        self.dir.ancestors().take(2).any(listed) || self.parts().iter().any(Self::has_bad_blocks)
    }

    /// Returns the bad blocks of a `/dev/dax`, as bytes of it.
    ///
    /// # Errors
    /// Where it begins in its NVDIMM region could not be found out: the file that only root may
    /// read. Not if there are none in all of the NVDIMM region.
    pub(super) fn dax_bad_blocks(&self, bytes: u64) -> Result<Vec<Span>, PathBuf> {
        let Some(region) = self.nd_region() else { return Ok(Vec::new()) };
        let bad = bad_blocks(&region.dir);
        if bad.is_empty() {
            return Ok(bad);
        }
        let start = |dir: &Path| number(&dir.join("resource")).filter(|&at| at > 0);
        let whole = start(&region.dir).ok_or_else(|| region.dir.join("resource"))?;
        let outer = self.dir.parent().and_then(start);
        let own = start(&self.dir).or(outer).ok_or_else(|| self.dir.join("resource"))?;
        let lead = own.saturating_sub(whole);
        let inside = bad.iter().filter_map(|span| {
            let (from, to) = (span.at.max(lead), span.end().min(lead.saturating_add(bytes)));
            (from < to).then(|| Span::new(from - lead, to - from))
        });
        Ok(inside.collect())
    }

    /// Returns true if the power that is left when power fails is enough for the caches of the CPU,
    /// as the kernel says.
    pub(super) fn caches_persist(&self) -> bool {
        match (self.nd_region(), self.parts()) {
            (Some(region), _) => region.caches_persist(),
            (None, parts) => !parts.is_empty() && parts.iter().all(Self::caches_persist),
        }
    }
}

/// An NVDIMM region.
#[derive(Clone, Debug)]
pub(super) struct NdRegion {
    dir: PathBuf,
}

impl NdRegion {
    /// Returns true if it is memory of a virtual machine's host, who is asked to flush it.
    pub(super) fn is_virtio(&self) -> bool {
        let provider = self.dir.parent().and_then(|bus| text(&bus.join("provider")));
        let under_virtio = self.dir.ancestors().any(|dir| file_name(dir).starts_with("virtio"));
        under_virtio || provider.as_deref() == Some("virtio-pmem")
    }

    fn caches_persist(&self) -> bool {
        let domain = text(&self.dir.join("persistence_domain"));
        domain.as_deref() == Some("cpu_cache") && !self.is_virtio()
    }
}

/// Returns what `dir/badblocks` lists: lines of first sector and number of sectors, of 512 bytes.
fn bad_blocks(dir: &Path) -> Vec<Span> {
    let list = text(&dir.join("badblocks")).unwrap_or_default();
    let spans = list.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(u64::from_str);
        let (sector, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Span::new(sector.checked_mul(512)?, count.checked_mul(512)?))
    });
    spans.filter(|span| span.at.checked_add(span.len).is_some()).collect()
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Reads a decimal number, or a hexadecimal one with its prefix.
fn number(path: &Path) -> Option<u64> {
    let text = text(path)?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// A tree that looks like sysfs with an NVDIMM.
#[cfg(test)]
pub(super) mod made_up {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    pub(in crate::file) struct Tree(TempDir);

    /// Directory of the NVDIMM region.
    pub(in crate::file) const ND_REGION: &str = "devices/acpi/ndbus0/region0";

    impl Tree {
        pub(in crate::file) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(in crate::file) fn sysfs(&self) -> Sysfs {
            Sysfs::at(self.0.path())
        }

        pub(in crate::file) fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Links the directory `dir` as device `number` of `class`.
        pub(in crate::file) fn device(&self, class: &str, number: u64, dir: &str) {
            let root = self.0.path();
            fs::create_dir_all(root.join(dir)).unwrap();
            let numbers = root.join("dev").join(class);
            fs::create_dir_all(&numbers).unwrap();
            let name = format!("{}:{}", major(number), minor(number));
            symlink(root.join(dir), numbers.join(name)).unwrap();
        }

        /// A block device `number` on the NVDIMM, below `holder`: `pfn0.0` for fs-DAX.
        pub(in crate::file) fn pmem(&self, number: u64, holder: &str, has_dax: bool) -> Device {
            let dir = format!("{ND_REGION}/{holder}/block/pmem0");
            self.write(&format!("{dir}/queue/dax"), if has_dax { "1\n" } else { "0\n" });
            self.write(&format!("{ND_REGION}/pfn0.0/namespace"), "namespace0.0\n");
            self.device("block", number, &dir);
            self.sysfs().block(number).unwrap()
        }

        /// A `/dev/dax` of 64 MiB that starts 2 MiB behind the start of the NVDIMM.
        pub(in crate::file) fn dax(&self) -> Device {
            let dir = format!("{ND_REGION}/dax0.1/dax0.1");
            self.write(&format!("{dir}/size"), "67108864\n");
            self.write(&format!("{dir}/align"), "2097152\n");
            self.write(&format!("{dir}/resource"), "0x240200000\n");
            self.write(&format!("{ND_REGION}/resource"), "0x240000000\n");
            self.write("bus/dax/x", "");
            symlink(self.0.path().join("bus/dax"), self.0.path().join(&dir).join("subsystem"))
                .unwrap();
            self.device("char", DAX, &dir);
            self.sysfs().char(DAX).unwrap()
        }
    }

    /// Number of the `/dev/dax`: 252:1.
    pub(in crate::file) const DAX: u64 = 252 << 8 | 1;
}

#[cfg(test)]
mod tests {
    use super::{
        made_up::{DAX, ND_REGION, Tree},
        *,
    };

    #[test]
    fn a_dax_device_says_how_large_it_is() {
        let tree = Tree::new();
        let dax = tree.dax();
        assert!(dax.is_dax() && dax.nd_region().is_some());
        assert_eq!((dax.dax_bytes(), dax.dax_align()), (Some(64 << 20), Some(2 << 20)));
        assert_eq!(dax.name(), "dax0.1");
        assert!(tree.sysfs().block(DAX).is_none());
    }

    #[test]
    fn an_older_kernel_has_the_alignment_elsewhere() {
        let tree = Tree::new();
        let dir = format!("{ND_REGION}/dax0.1");
        tree.write(&format!("{dir}/dax_region/align"), "1073741824\n");
        tree.device("char", DAX, &format!("{dir}/dax0.1"));
        assert_eq!(tree.sysfs().char(DAX).unwrap().dax_align(), Some(1 << 30));
    }

    /// A flush left out where it is needed loses what was acknowledged.
    #[test]
    fn only_a_persistence_domain_of_the_caches_needs_no_flush() {
        let tree = Tree::new();
        let (dax, pmem) = (tree.dax(), tree.pmem(1, "pfn0.0", true));
        assert!(!dax.caches_persist(), "nothing is said");
        let domain = format!("{ND_REGION}/persistence_domain");
        for (says, persist) in
            [("memory_controller", false), ("unknown", false), ("", false), ("cpu_cache", true)]
        {
            tree.write(&domain, &format!("{says}\n"));
            assert_eq!(dax.caches_persist(), persist, "{says}");
            assert_eq!(pmem.caches_persist(), persist, "{says}");
        }
        tree.write("devices/acpi/ndbus0/provider", "virtio-pmem\n");
        assert!(!pmem.caches_persist(), "the host's caches are others");
    }

    /// Of a device that is put together, the weakest part counts.
    #[test]
    fn a_mapped_device_is_as_persistent_as_all_of_its_parts() {
        let tree = Tree::new();
        tree.pmem(1, "pfn0.0", true);
        tree.write(&format!("{ND_REGION}/persistence_domain"), "cpu_cache\n");
        let part = fs::canonicalize(tree.sysfs().root.join("dev/block/0:1")).unwrap();
        tree.device("block", 2, "devices/virtual/block/dm-0");
        let slaves = tree.sysfs().root.join("devices/virtual/block/dm-0/slaves");
        let mapped = tree.sysfs().block(2).unwrap();
        assert!(!mapped.caches_persist());
        fs::create_dir(&slaves).unwrap();
        std::os::unix::fs::symlink(part, slaves.join("pmem0")).unwrap();
        assert!(mapped.caches_persist());
        tree.device("block", 3, "devices/pci/sda");
        std::os::unix::fs::symlink(tree.sysfs().root.join("devices/pci/sda"), slaves.join("sda"))
            .unwrap();
        assert!(!mapped.caches_persist());
    }

    /// Reading one byte of a bad block ends the process.
    #[test]
    fn bad_blocks_of_the_nvdimm_are_placed_in_the_device() {
        let tree = Tree::new();
        let dax = tree.dax();
        let bad = || dax.dax_bad_blocks(64 << 20).unwrap();
        assert_eq!(bad(), []);
        // Before it, across its start, inside, across its end, behind it.
        let list = "0 8\n4088 16\n8192 1\n135160 100\n200000 8\nnonsense\n";
        tree.write(&format!("{ND_REGION}/badblocks"), list);
        let end = 64 << 20;
        let across = Span::new(135_160 * 512 - (2 << 20), end - (135_160 * 512 - (2 << 20)));
        assert_eq!(bad(), [Span::new(0, 4096), Span::new(2 << 20, 512), across]);
    }

    /// Not knowing where they are is not the same as knowing that there are none.
    #[test]
    fn bad_blocks_without_a_place_are_not_ignored() {
        let tree = Tree::new();
        let dax = tree.dax();
        fs::remove_file(tree.sysfs().root.join(ND_REGION).join("resource")).unwrap();
        assert_eq!(dax.dax_bad_blocks(64 << 20), Ok(vec![]));
        tree.write(&format!("{ND_REGION}/badblocks"), "0 8\n");
        let unread = dax.dax_bad_blocks(64 << 20).unwrap_err();
        assert!(unread.ends_with(format!("{ND_REGION}/resource")), "{}", unread.display());
    }
}
