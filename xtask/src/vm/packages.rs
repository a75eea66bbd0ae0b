//! What the guest is made of, besides the server: programs of this machine, and kernels that are
//! downloaded and unpacked, not installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{Failure, run::sorted};

/// Commands that are needed, and Debian's packages that have them.
const NEEDED: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ndctl", "ndctl"),
    ("mkfs.ext4", "e2fsprogs"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("apt-get", "apt"),
];

/// The server is linked for it, so that it needs nothing of the guest.
pub(super) const TARGET: &str = "x86_64-unknown-linux-musl";

/// A kernel for a guest.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// Directory of its modules.
    pub(super) modules: PathBuf,
}

/// Returns what this machine lacks, with the lines that install it; `None` if all is there.
pub(super) fn missing() -> Result<Option<String>, Failure> {
    let packages: Vec<&str> = NEEDED
        .iter()
        .filter(|(command, _)| find(command).is_none())
        .map(|(_, package)| *package)
        .collect();
    let sysroot = tool("rustc", &["--print", "sysroot"], None)?;
    let std = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
    let mut lines = Vec::new();
    if !packages.is_empty() {
        let packages = packages.join(" ");
        lines.push(format!("apt-get install --no-install-recommends {packages}"));
    }
    if !std.is_dir() {
        lines.push(format!("rustup target add {TARGET}"));
    }
    let lines = lines.join(" && ");
    Ok((!lines.is_empty()).then(|| format!("the guest needs what is missing here: {lines}")))
}

/// Returns the path of a program. Those of the administrator are looked for, too.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Returns the kernel that the package `meta` stands for at present, downloaded to `cache` if it is
/// not there yet. It has to be one of `line`: "6.1" is not "6.12".
pub(super) fn kernel(line: &str, meta: &str, cache: &Path) -> Result<Kernel, Failure> {
    let depends = tool("apt-cache", &["depends", meta], None)
        .map_err(|error| format!("{error}: say apt-get update, if that is the reason"))?;
    let package = image_package(&depends).ok_or_else(|| format!("{meta} names no kernel"))?;
    let policy = tool("apt-cache", &["policy", package], None)?;
    let version = candidate(&policy).ok_or_else(|| format!("apt cannot get {package}"))?;
    if !version.starts_with(&format!("{line}.")) {
        return Err(format!("{meta} is {version} here, and Linux {line} is needed").into());
    }
    let tree = cache.join(format!("{package}_{version}"));
    if !tree.is_dir() {
        unpack(package, version, &tree)?;
    }
    let dirs = sorted(&tree.join("lib/modules"))?;
    let modules = dirs.into_iter().next().ok_or_else(|| format!("{package} has no modules"))?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let image = tree.join(format!("boot/vmlinuz-{release}"));
    Ok(Kernel { image, modules })
}

/// Makes `tree` of a package. It is there as a whole or not at all.
fn unpack(package: &str, version: &str, tree: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let part = tree.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part)?;
    // Apt's own user may not write here; what is downloaded is checked all the same.
    let user = tool("id", &["-un"], None)?;
    let sandbox = format!("APT::Sandbox::User={}", user.trim());
    let wanted = format!("{package}={version}");
    tool("apt-get", &["-qq", "-o", &sandbox, "download", &wanted], Some(&part))
        .map_err(|error| format!("{error}: say apt-get update, if that is the reason"))?;
    for deb in sorted(&part)? {
        tool("dpkg", &["-x", &deb.to_string_lossy(), &part.to_string_lossy()], None)?;
        fs::remove_file(deb)?;
    }
    for modules in sorted(&part.join("lib/modules"))? {
        let release = modules.file_name().unwrap_or_default().to_string_lossy();
        tool("depmod", &["-b", &part.to_string_lossy(), &release], None)?;
    }
    fs::rename(part, tree)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("vm: {package} {version} downloaded and unpacked in {seconds:.1} s");
    Ok(())
}

/// Returns the package of a kernel's image among what `apt-cache depends` says.
fn image_package(depends: &str) -> Option<&str> {
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-"))
}

/// Returns the version that would be installed, as `apt-cache policy` says it.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then_some(version)
}

/// Runs a program in `dir` and returns what it says.
pub(super) fn tool(program: &str, args: &[&str], dir: Option<&Path>) -> Result<String, Failure> {
    let path = find(program).unwrap_or_else(|| program.into());
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::null()).env("LC_ALL", "C");
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} {}: {}", args.join(" "), said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wrong package would be another kernel, or none.
    #[test]
    fn apt_names_the_kernel_and_its_version() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(image_package(depends), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(image_package("linux-image-cloud-amd64\n"), None);
        let policy = "linux-image-x:\n  Installed: (none)\n  Candidate: 6.1.192-2\n";
        assert_eq!(candidate(policy), Some("6.1.192-2"));
        assert_eq!(candidate("  Candidate: (none)\n"), None);
    }
}
