//! `impasto verify`: all that a region holds, read and checked. Nothing is changed.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use impasto::{
    region::{Checksum, Error, Extent, Frames, Region, Span},
    store::{Recovered, Recovery, Step},
};

use super::{Failure, args::size_text, tell};

/// Options of `impasto verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory or device of the region; nobody may be serving it
    dir: PathBuf,
}

pub(super) const DAMAGED: u8 = 3;

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    let region = match Region::open(&args.dir) {
        Ok(region) => region,
        Err(error @ (Error::Damaged { .. } | Error::Mixed { .. } | Error::FileSize { .. })) => {
            return Ok(damaged(&error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    describe(&region);
    let frames = Frames::anonymous(region.superblock().geometry, 0)?;
    let recovery = Recovery::new(*region.superblock());
    let (recovered, frames) = match recover(&region, recovery, frames) {
        Ok(recovered) => recovered,
        Err(corruption) => return Ok(damaged(&corruption.to_string())),
    };
    drop(frames);
    let checked = check_values(&region, &recovered);
    tell(&format!(
        "{} live record{} of {} bytes, {} log entries, read in {} ms",
        checked.values,
        if checked.values == 1 { "" } else { "s" },
        checked.bytes,
        recovered.records(),
        start.elapsed().as_millis()
    ));
    match checked.damaged {
        0 => {
            tell("all of them verify");
            Ok(ExitCode::SUCCESS)
        }
        1 => Ok(damaged("1 record is lost")),
        count => Ok(damaged(&format!("{count} records are lost"))),
    }
}

fn describe(region: &Region) {
    let superblock = region.superblock();
    let stop = if superblock.clean { "it stopped cleanly" } else { "it did not stop cleanly" };
    tell(&format!(
        "{}: {}, epoch {}, last served on {}; {stop}",
        region.path().display(),
        size_text(superblock.geometry.region_bytes()),
        superblock.epoch,
        superblock.medium.name(),
    ));
    if let Some((copy, error)) = region.damaged_copy() {
        tell(&format!(
            "superblock {copy} is damaged ({error}); the other one holds, and nothing is lost"
        ));
    }
}

fn damaged(what: &str) -> ExitCode {
    tell(&format!("damaged: {what}"));
    ExitCode::from(DAMAGED)
}

/// Runs recovery as a server would, and stops before it would write.
pub(super) fn recover(
    region: &Region,
    mut recovery: Recovery,
    mut frames: Frames,
) -> Result<(Recovered, Frames), impasto::store::Corruption> {
    let mut bytes = Vec::new();
    while let Step::Read(spans) = recovery.step(&frames)? {
        for span in spans {
            // What cannot be read counts as zeroes, which is what the frames hold.
            if read(region, span, &mut bytes).is_ok() {
                frames.store(span.at, &bytes);
            }
        }
    }
    let recovered = recovery.finish(&frames)?;
    Ok((recovered, frames))
}

#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) values: u64,
    pub(super) bytes: u64,
    pub(super) damaged: u64,
}

/// Checks every live value, and tells which ones do not verify.
pub(super) fn check_values(region: &Region, recovered: &Recovered) -> Checked {
    let mut checked = Checked::default();
    let mut bytes = Vec::new();
    for value in recovered.values() {
        checked.values += 1;
        checked.bytes += value.extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
        let what = match checksum(region, &value.extents, &mut bytes) {
            Ok(sum) if sum == value.checksum => continue,
            Ok(_) => "does not verify".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
        };
        tell(&format!("record {} of log {} {what}", value.seq, value.log));
        checked.damaged += 1;
    }
    checked
}

fn checksum(region: &Region, extents: &[Extent], bytes: &mut Vec<u8>) -> std::io::Result<u64> {
    let mut sum = Checksum::new();
    for extent in extents {
        read(region, extent.span(), bytes)?;
        sum.update(bytes);
    }
    Ok(sum.value())
}

fn read(region: &Region, span: Span, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let len = usize::try_from(span.len).map_err(std::io::Error::other)?;
    bytes.resize(len, 0);
    region.read_at(bytes, span.at)
}
