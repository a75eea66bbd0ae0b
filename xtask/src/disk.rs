//! Tests that want a disk: on a file system that fills up, a small ext4 image on a loop device,
//! made and unmade here; and with more uploads of the longest bodies at once than a region holds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Failure,
    run::{Skips, Step, skipped, target_dir, tests_that_read},
};

/// Tells a test where the small file system is.
const KEY: &str = "IMPASTO_SMALL_FS";
/// Room for a few regions of the smallest size and not for many.
const IMAGE_BYTES: u64 = 96 << 20;

/// Tells a test how many uploads of 64 MiB there are to be at once.
const UPLOADS_KEY: &str = "IMPASTO_UPLOADS";
const UPLOADS: &str = "100";

/// Runs every test that reads `IMPASTO_SMALL_FS` or `IMPASTO_UPLOADS`.
pub(crate) fn run(skips: Skips) -> Result<(), Failure> {
    let tests = tests_that_read(UPLOADS_KEY)?;
    if tests.is_empty() {
        return skipped("disk", skips, &format!("no test reads {UPLOADS_KEY}"));
    }
    for (package, test) in tests {
        let args = format!("test --release -p {package} --test {test} -- --nocapture");
        Step::cargo("disk: long bodies", &args).env(UPLOADS_KEY, UPLOADS).run()?;
    }
    small_fs(skips)
}

fn small_fs(skips: Skips) -> Result<(), Failure> {
    let tests = tests_that_read(KEY)?;
    if tests.is_empty() {
        return skipped("disk", skips, &format!("no test reads {KEY}"));
    }
    let mounted = match Mounted::new(&target_dir().join("small-fs")) {
        Ok(mounted) => mounted,
        Err(why) => return skipped("disk", skips, &format!("{} tests: {why}", tests.len())),
    };
    for (package, test) in tests {
        let args = format!("test -p {package} --test {test} -- --nocapture");
        Step::cargo("disk: small file system", &args).env(KEY, mounted.path()).run()?;
    }
    mounted.end()
}

/// A mounted file system; unmounted when dropped, also when a test or this program fails.
struct Mounted {
    dir: PathBuf,
    image: PathBuf,
}

impl Mounted {
    fn new(base: &Path) -> Result<Self, Failure> {
        if tool("id", &["-u"])?.trim() != "0" {
            return Err("mounting a loop device needs root".into());
        }
        let (image, dir) = (base.with_extension("img"), base.to_path_buf());
        fs::create_dir_all(&dir)?;
        let (image_path, dir_path) = (image.to_string_lossy(), dir.to_string_lossy());
        // A run that was killed left it mounted; that nothing was left is no failure.
        let _ = unmount(&dir_path);
        let _ = fs::remove_file(&image);
        fs::File::create_new(&image)?.set_len(IMAGE_BYTES)?;
        tool("mkfs.ext4", &["-q", "-F", &image_path])?;
        tool("mount", &["-o", "loop", &image_path, &dir_path])?;
        Ok(Self { dir, image })
    }

    fn path(&self) -> String {
        self.dir.to_string_lossy().into_owned()
    }

    fn end(self) -> Result<(), Failure> {
        unmount(&self.path())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After `end` it is not mounted any more; that nothing is left to undo is no failure.
        let _ = unmount(&self.path());
        let _ = fs::remove_file(&self.image);
    }
}

/// Takes the file system out of the tree. It ends when the kernel has let go of its last file: of a
/// server that was killed, that is a moment after the end of the process.
fn unmount(dir: &str) -> Result<(), Failure> {
    tool("umount", &["--lazy", dir]).map(drop)
}

fn tool(program: &str, args: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program}: {}", said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
