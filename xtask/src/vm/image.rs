//! The guest's memory at its start: a shell, the tools that prepare its media, the kernel's
//! modules, the server, and `vm/init`, which is run. One image for each kernel serves all jobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{
    archive::Archive,
    packages::{Kernel, find, tool},
};
use crate::{Failure, run::root};

/// Modules that a guest needs, where they are not in the kernel itself.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "nfit",
    "nd_pmem",
    "device_dax",
    "dax_pmem",
    "virtio_pmem",
];

/// Where the guest makes or mounts something.
const DIRS: [&str; 7] = ["/dev", "/proc", "/sys", "/mnt", "/tmp", "/run", "/etc"];

/// Returns what is the same for all kernels: programs, and what they are linked with.
pub(super) fn base(server: &Path) -> Result<Vec<u8>, Failure> {
    let mut archive = Archive::default();
    DIRS.into_iter().for_each(|dir| archive.dir(dir));
    // The kernel opens it for the first process, before anything is mounted.
    archive.device("/dev/console", 5, 1);
    archive.file("/init", &fs::read(root().join("vm/init"))?);
    archive.file("/bin/impasto", &fs::read(server)?);
    for applet in tool("busybox", &["--list"], None)?.lines() {
        if !["busybox", "ndctl", "mkfs.ext4"].contains(&applet) {
            archive.link(&format!("/bin/{applet}"), "busybox");
        }
    }
    let mut libraries = BTreeSet::new();
    for program in ["busybox", "ndctl", "mkfs.ext4"] {
        let path = find(program).ok_or_else(|| format!("there is no {program}"))?;
        archive.file(&format!("/bin/{program}"), &fs::read(&path)?);
        // It says so, and fails, if the program is linked with nothing.
        let linked = tool("ldd", &[&path.to_string_lossy()], None).unwrap_or_default();
        libraries.extend(absolute_paths(&linked));
    }
    for library in libraries {
        archive.file(&library, &fs::read(&library)?);
    }
    Ok(archive.end())
}

/// Returns a kernel's modules, and the order in which they are loaded.
pub(super) fn modules(kernel: &Kernel) -> Result<Vec<u8>, Failure> {
    let read = |name: &str| fs::read_to_string(kernel.modules.join(name));
    let order = load_order(&read("modules.dep")?, &read("modules.builtin")?, &MODULES)?;
    let mut archive = Archive::default();
    let mut names = String::new();
    for path in order {
        let name = module_name(&path);
        archive.file(&format!("/modules/{name}"), &module(&kernel.modules.join(&path))?);
        names += &name;
        names.push('\n');
    }
    archive.file("/modules/order", names.as_bytes());
    Ok(archive.end())
}

/// Returns a module as the guest loads it, which has no xz of the kernel's.
fn module(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.extension().is_none_or(|e| e != "xz") {
        return Ok(fs::read(path)?);
    }
    let plain = path.with_extension("");
    if !plain.is_file() {
        tool("xz", &["-dk", &path.to_string_lossy()], None)?;
    }
    Ok(fs::read(plain)?)
}

/// Returns the files of `wanted` and of what they depend on, each after what it depends on.
fn load_order(deps: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>, Failure> {
    let mut known = BTreeMap::new();
    for line in deps.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            known.insert(module_name(path), (path, needs));
        }
    }
    let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted.iter().map(|name| format!("{name}.ko")) {
        let Some((path, needs)) = known.get(&name) else {
            if builtin.contains(&name) {
                continue;
            }
            return Err(format!("the kernel has no {name}").into());
        };
        // The last one named has to be loaded first.
        for path in needs.split_whitespace().rev().chain([*path]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

/// Returns a module's name as it is written in a path, packed or not.
fn module_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.trim_end_matches(".xz").replace('-', "_")
}

/// Returns the paths that `ldd` has found.
fn absolute_paths(linked: &str) -> Vec<String> {
    let paths = linked.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPS: &str = "\
kernel/drivers/dax/dax_pmem.ko.xz: kernel/drivers/nvdimm/libnvdimm.ko.xz
kernel/drivers/nvdimm/libnvdimm.ko.xz:
kernel/drivers/nvdimm/nd_pmem.ko.xz: kernel/drivers/nvdimm/nd_btt.ko.xz \
kernel/drivers/nvdimm/libnvdimm.ko.xz
kernel/drivers/nvdimm/nd_btt.ko.xz: kernel/drivers/nvdimm/libnvdimm.ko.xz
";

    /// A module that is loaded before what it needs is refused by the kernel.
    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let order = load_order(DEPS, "kernel/dax.ko\n", &["dax", "nd_pmem", "dax_pmem"]).unwrap();
        let names: Vec<String> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["libnvdimm.ko", "nd_btt.ko", "nd_pmem.ko", "dax_pmem.ko"]);
        let error = load_order(DEPS, "", &["nfit"]).unwrap_err().to_string();
        assert!(error.contains("nfit.ko"), "{error}");
    }

    #[test]
    fn ldd_names_what_is_needed_at_a_path() {
        let linked = "\
\tlinux-vdso.so.1 (0x00007f77)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f77)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f77)
";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(absolute_paths(linked), expected);
        assert!(absolute_paths("\tnot a dynamic executable\n").is_empty());
    }
}
