//! Values that are lost, written to files as long as they can be read.

use std::{fs::OpenOptions, io::Write, path::Path};

use impasto::region::{Checksum, Examined};

use super::plan::Plan;
use crate::cli::Failure;

/// Writes each lost value that verifies to `DIR/LOG.NUMBER`, and returns the names of the files.
///
/// # Errors
/// If the directory or one of the files is there already, or cannot be written.
pub(super) fn write(dir: &Path, region: &Examined, plan: &Plan) -> Result<Vec<String>, Failure> {
    std::fs::create_dir_all(dir)
        .map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    let mut written = Vec::new();
    let mut bytes = Vec::new();
    for lost in &plan.lost {
        bytes.clear();
        let read = lost.record.extents.iter().try_for_each(|extent| {
            let start = bytes.len();
            bytes.resize(start + extent.len as usize, 0);
            region.read_at(&mut bytes[start..], extent.span().at)
        });
        if read.is_err() || Checksum::of(&bytes) != lost.record.checksum {
            continue;
        }
        // A name has no slash, and with the number behind it it is not `..`.
        let log = lost.log.clone().unwrap_or_else(|| format!("log-number-{}", lost.record.log));
        let path = dir.join(format!("{log}.{}", lost.seq));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        written.push(path.display().to_string());
    }
    Ok(written)
}
