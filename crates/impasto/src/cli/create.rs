//! The region of `impasto serve`: opened, or created with a bar that shows how far it is.

use std::{io::IsTerminal, path::Path};

use indicatif::{ProgressBar, ProgressStyle};

use impasto::region::{
    Region,
    layout::{Geometry, MediumKind},
};

use super::{
    Failure,
    args::{self, MediumArg, size_text},
    medium, memory, say,
};

/// What the command line asks of a region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) dir: &'a Path,
    /// The size, if it was given.
    pub(super) size: Option<Geometry>,
    pub(super) medium: MediumArg,
    /// Memory for it, if that was given.
    pub(super) memory: Option<u64>,
}

/// Size of a new region when none was given: `1GiB`.
pub(super) const SIZE: &str = "1GiB";

/// Opens the region, or creates it if there is none. It knows the medium that it is to be served
/// on.
pub(super) fn open(wanted: Wanted<'_>) -> Result<Region, Failure> {
    if !Region::exists(wanted.dir)? {
        create(wanted)?;
    }
    let mut region = Region::open(wanted.dir)?;
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
    let geometry = found.geometry;
    let medium = medium::choose(wanted.medium, wanted.dir, Some(found))?;
    region.serve_on(medium)?;
    check_memory(wanted, geometry, medium)?;
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
        None => match Region::device_bytes(wanted.dir)? {
            Some(bytes) => Ok(Geometry::try_from(bytes)?),
            None => Ok(args::size(SIZE)?),
        },
    }
}

/// On `pmem` a region takes no memory but its own.
fn check_memory(wanted: Wanted<'_>, size: Geometry, medium: MediumKind) -> Result<(), Failure> {
    if medium == MediumKind::Pmem { Ok(()) } else { memory::check(size, 0, wanted.memory) }
}

/// Creates the region, with a bar on a terminal.
pub(super) fn create(wanted: Wanted<'_>) -> Result<(), Failure> {
    let geometry = size(wanted)?;
    let medium = medium::choose(wanted.medium, wanted.dir, None)?;
    check_memory(wanted, geometry, medium)?;
    let bytes = geometry.region_bytes();
    let text = format!("creating a region of {} in {}", size_text(bytes), wanted.dir.display());
    Ok(with_progress(text, bytes, |progress| {
        Region::create(wanted.dir, geometry, medium, progress)
    })?)
}

/// Creates the region on a device, over whatever stands there.
pub(super) fn overwrite(wanted: Wanted<'_>) -> Result<(), Failure> {
    let geometry = size(wanted)?;
    let bytes = geometry.region_bytes();
    let text = format!("creating a region of {} on {}", size_text(bytes), wanted.dir.display());
    Ok(with_progress(text, bytes, |progress| Region::overwrite(wanted.dir, geometry, progress))?)
}

/// Says `text`, with a bar on a terminal, while `work` tells how many of `bytes` are done.
pub(super) fn with_progress<E>(
    text: String,
    bytes: u64,
    work: impl FnOnce(&mut dyn FnMut(u64)) -> Result<(), E>,
) -> Result<(), E> {
    if !std::io::stderr().is_terminal() {
        say(&text);
        return work(&mut |_| {});
    }
    let bar = ProgressBar::new(bytes).with_message(text);
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}");
    bar.set_style(style.expect("the template is well-formed"));
    let done = work(&mut |done| bar.set_position(done));
    match done {
        Ok(()) => bar.finish(),
        Err(_) => bar.abandon(),
    }
    done
}
