//! The region of `impasto serve`: opened, or created with a bar that shows how far it is.

use std::{fs, io::IsTerminal, path::Path};

use indicatif::{ProgressBar, ProgressStyle};

use impasto::region::{
    CpuFlush, Region,
    layout::{Geometry, MediumKind},
};

use super::{
    Failure,
    args::{self, size_text},
    say,
};

/// What the command line asks of a region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) dir: &'a Path,
    /// The size, if it was given.
    pub(super) size: Option<Geometry>,
    pub(super) medium: MediumKind,
}

/// Size of a new region when none was given: `1GiB`.
pub(super) const SIZE: &str = "1GiB";

/// Opens the region, or creates it if there is none.
pub(super) fn open(wanted: Wanted<'_>) -> Result<Region, Failure> {
    if !Region::exists(wanted.dir)? {
        create(wanted)?;
    }
    let region = Region::open(wanted.dir)?;
    let dir = wanted.dir.display();
    let found = region.superblock();
    if let Some(size) = wanted.size
        && size != found.geometry
    {
        let (has, size) = (found.geometry.region_bytes(), size.region_bytes());
        return Err(format!(
            "the region in {dir} has {has}, not {size}; its size was fixed when it was created: \
             leave out --size, or choose another --data",
            has = size_text(has),
            size = size_text(size),
        )
        .into());
    }
    if wanted.medium != found.medium {
        return Err(format!(
            "the region in {dir} was created for --medium {has}, and is not served on {medium}; \
             say --medium {has}, or choose another --data",
            has = found.medium.name(),
            medium = wanted.medium.name(),
        )
        .into());
    }
    check_memory(found.geometry)?;
    if let Some((copy, error)) = region.damaged_copy() {
        say(&format!(
            "impasto: superblock {copy} of {dir} is damaged ({error}); the other one holds, and \
             this one will be written anew"
        ));
    }
    Ok(region)
}

fn create(wanted: Wanted<'_>) -> Result<(), Failure> {
    let geometry = match wanted.size {
        Some(size) => size,
        None => args::size(SIZE)?,
    };
    let medium = wanted.medium;
    if medium == MediumKind::Shm && !CpuFlush::is_supported() {
        return Err("--medium shm is not available on this kind of CPU; use --medium disk".into());
    }
    check_memory(geometry)?;
    let bytes = geometry.region_bytes();
    let text = format!("creating a region of {} in {}", size_text(bytes), wanted.dir.display());
    if !std::io::stderr().is_terminal() {
        say(&text);
        Region::create(wanted.dir, geometry, medium, &mut |_| {})?;
        return Ok(());
    }
    let bar = ProgressBar::new(bytes).with_message(text);
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}");
    bar.set_style(style.expect("the template is well-formed"));
    let created = Region::create(wanted.dir, geometry, medium, &mut |done| bar.set_position(done));
    match created {
        Ok(()) => bar.finish(),
        Err(_) => bar.abandon(),
    }
    Ok(created?)
}

/// All of a region is in memory while it is served; one that does not fit would end in the kernel
/// killing the process, or another one.
fn check_memory(geometry: Geometry) -> Result<(), Failure> {
    let bytes = geometry.region_bytes();
    let memory = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total_bytes);
    match memory {
        Some(memory) if bytes > memory / 4 * 3 => Err(format!(
            "a region of {} does not fit this machine's memory, {} MiB: while it is served it may \
             take three quarters of it at most; choose a smaller --size",
            size_text(bytes),
            memory >> 20,
        )
        .into()),
        _ => Ok(()),
    }
}

/// Returns the machine's memory as `/proc/meminfo` tells it.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:       16384256 kB\nMemFree:         1234 kB\n";
        assert_eq!(total_bytes(meminfo), Some(16_384_256 << 10));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
        assert!(total_bytes(&fs::read_to_string("/proc/meminfo").unwrap()).is_some());
    }
}
