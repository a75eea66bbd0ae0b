//! Archives that the kernel unpacks into memory: cpio, in the format "newc". Made here, they need
//! neither root, for a device, nor a directory to be copied to first.

use std::collections::BTreeSet;

/// An archive. Directories above a member are made with it.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    dirs: BTreeSet<String>,
    members: u32,
}

const DIR: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// The kernel wants the next archive in one file to start at a multiple of 4.
const END_ALIGN: usize = 512;

impl Archive {
    /// Adds a directory.
    pub(super) fn dir(&mut self, path: &str) {
        self.dirs_above(path);
        if self.dirs.insert(path.to_owned()) {
            self.member(path, DIR, (0, 0), &[]);
        }
    }

    /// Adds a file that may be executed.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) {
        self.dirs_above(path);
        self.member(path, PROGRAM, (0, 0), bytes);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.dirs_above(path);
        self.member(path, LINK, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.dirs_above(path);
        self.member(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// Returns the archive, to be loaded alone or behind another one.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(END_ALIGN), 0);
        self.bytes
    }

    fn dirs_above(&mut self, path: &str) {
        let parts: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        for at in parts {
            let dir = &path[..at];
            if !dir.is_empty() && self.dirs.insert(dir.to_owned()) {
                self.member(dir, DIR, (0, 0), &[]);
            }
        }
    }

    fn member(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        let name = path.trim_start_matches('/');
        let len = u32::try_from(bytes.len()).expect("a member is shorter than 4 GiB");
        let name_len = u32::try_from(name.len() + 1).expect("a name is short");
        self.members += 1;
        let (number, links) = (self.members, 1);
        let (major, minor) = device;
        let fields =
            [number, mode, 0, 0, links, 0, len, 0, 0, major, minor, name_len, 0].map(hexadecimal);
        self.bytes.extend_from_slice(b"070701");
        self.bytes.extend_from_slice(fields.concat().as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(bytes);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn hexadecimal(field: u32) -> String {
    format!("{field:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel skips what it cannot make, without a word: a file without its directory.
    #[test]
    fn a_member_comes_after_its_directories_and_each_once() {
        let mut archive = Archive::default();
        archive.file("/lib/x/one", b"1");
        archive.link("/lib/x/two", "one");
        archive.dir("/lib");
        let bytes = archive.end();
        let text = String::from_utf8_lossy(&bytes);
        let names = ["lib\0", "lib/x\0", "lib/x/one\0", "lib/x/two\0", "TRAILER!!!\0"];
        let places: Vec<_> = names.map(|name| text.find(name).unwrap()).into();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("070701").count(), names.len());
    }

    /// One byte off, and all that follows is not found.
    #[test]
    fn each_member_starts_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        for len in 0..5 {
            archive.file(&"n".repeat(len + 1), &vec![b'.'; len]);
        }
        let bytes = archive.end();
        let starts = bytes.windows(6).enumerate().filter(|(_, window)| window == b"070701");
        assert!(starts.map(|(at, _)| at).all(|at| at.is_multiple_of(4)));
        assert!(bytes.len().is_multiple_of(END_ALIGN));
    }
}
