//! The region of `impasto serve`: opened, or created with a bar that shows how far it is.

use std::{io::IsTerminal, path::Path};

use indicatif::{ProgressBar, ProgressStyle};

use impasto::region::{
    CpuFlush, Region,
    layout::{Geometry, MediumKind},
};

use super::{
    Failure,
    args::{self, size_text},
    memory, say,
};

/// What the command line asks of a region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) dir: &'a Path,
    /// The size, if it was given.
    pub(super) size: Option<Geometry>,
    pub(super) medium: MediumKind,
    /// Memory for it, if that was given.
    pub(super) memory: Option<u64>,
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
    memory::check(found.geometry, 0, wanted.memory)?;
    if let Some((copy, error)) = region.damaged_copy() {
        say(&format!(
            "impasto: superblock {copy} of {dir} is damaged ({error}); the other one holds, and \
             this one will be written anew"
        ));
    }
    Ok(region)
}

/// Returns the size of the region that is created if there is none.
pub(super) fn size(wanted: Wanted<'_>) -> Result<Geometry, Failure> {
    match wanted.size {
        Some(size) => Ok(size),
        None => Ok(args::size(SIZE)?),
    }
}

fn create(wanted: Wanted<'_>) -> Result<(), Failure> {
    let geometry = size(wanted)?;
    let medium = wanted.medium;
    if medium == MediumKind::Shm && !CpuFlush::is_supported() {
        return Err("--medium shm is not available on this kind of CPU; use --medium disk".into());
    }
    memory::check(geometry, 0, wanted.memory)?;
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
