//! Which medium `--medium` means at a place.

use std::path::Path;

use impasto::region::{
    CpuFlush, Error,
    layout::{MediumKind, Superblock},
    pmem_probe,
};

use super::{Failure, args::MediumArg};

/// Returns the medium for `data`, where the region with the superblock `found` is, if there is one.
/// Whether that may be served on it, is not asked here.
pub(super) fn choose(
    asked: MediumArg,
    data: &Path,
    found: Option<&Superblock>,
) -> Result<MediumKind, Failure> {
    let medium = match asked {
        MediumArg::Disk => MediumKind::Disk,
        MediumArg::Shm => MediumKind::Shm,
        MediumArg::Pmem => {
            pmem_probe(data)?;
            MediumKind::Pmem
        }
        MediumArg::Auto => match found {
            // After a crash it can go on nowhere else; `shm` has to be asked for all the same.
            Some(found) if !found.clean && found.medium != MediumKind::Shm => found.medium,
            _ => probed(data)?,
        },
    };
    if medium != MediumKind::Disk && !CpuFlush::is_supported() {
        let name = medium.name();
        return Err(format!(
            "--medium {name} is not available on this kind of CPU; use --medium disk"
        )
        .into());
    }
    Ok(medium)
}

/// Returns `pmem` if it works at `data`, else `disk`, which will say itself if it does not.
fn probed(data: &Path) -> Result<MediumKind, Failure> {
    match pmem_probe(data) {
        Ok(()) if CpuFlush::is_supported() => Ok(MediumKind::Pmem),
        // It cannot be anything else.
        Err(error @ Error::Device { .. }) => Err(error.into()),
        Ok(()) | Err(_) => Ok(MediumKind::Disk),
    }
}
