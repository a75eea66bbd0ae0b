//! `impasto adopt`: a region is checked and copied to the medium on which it is to go on.
//!
//! Bytes stay where they are in the region, so the copy has the source's uuid: checksums of the log
//! are seeded with uuid and place.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use impasto::{
    region::{
        Error, Frames, Region, Span,
        layout::{MediumKind, Superblock},
    },
    store::Recovery,
};

use super::{
    Failure,
    args::{MediumArg, size_text},
    check::{Checked, Values},
    create::with_progress,
    damage::DAMAGED,
    medium,
    reader::Reader,
    tell,
};

/// Options of `impasto adopt`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory or device of the region; nobody may be serving it
    source: PathBuf,
    /// Directory for the copy, which is made if it is missing; or an empty /dev/dax
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// What is to make records durable from now on
    #[arg(long, value_enum, default_value_t = MediumArg::Auto)]
    medium: MediumArg,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // What may be refused is asked for before a region is read, which takes time.
    let medium = medium::choose(args.medium, &args.data, None)?;
    let source = Region::open(&args.source)?;
    let replaces = is_same(&args.source, &args.data);
    if replaces && Region::device_bytes(&args.data)?.is_some() {
        let device = args.data.display();
        return Err(format!("{device} has no room for a copy of itself; choose a directory").into());
    }
    if !replaces && Region::exists(&args.data)? {
        return Err(Error::Exists { path: args.data.clone() }.into());
    }
    let mut frames = Frames::anonymous(source.superblock().geometry, 0)?;
    let mut recovery = Recovery::new(*source.superblock()).on(medium);
    if source.damaged_copy().is_some() {
        recovery = recovery.beside_damage();
    }
    let reader = Reader::new(&source);
    let (recovery, found) = reader.recover(recovery, &mut frames, &mut |_| {});
    let recovered = match found.and_then(|()| recovery.finish(&frames)) {
        Ok(recovered) => recovered,
        Err(corruption) => return Ok(damaged(&[corruption.to_string()])),
    };
    let values = Values::new(&recovered, &frames);
    drop(frames);
    let checked = values.check(&reader, &mut |_| {});
    if !checked.damaged.is_empty() {
        let lost: Vec<_> = checked.damaged.iter().map(ToString::to_string).collect();
        return Ok(damaged(&lost));
    }
    // The next run, which has not appended anything yet, and whose past is fenced off (D6).
    let superblock = Superblock { clean: true, ..recovered.superblock };
    let used = recovered.used_bufs().map(|buf| buf.whole().span()).collect();
    let missing = recovered.into_store().segments_missing();
    if missing > 0 {
        return Err(format!(
            "the region in {} is too full to go on on {}: {missing} MiB more have to be free; trim \
             logs on {} before",
            args.source.display(),
            medium.name(),
            source.medium().name(),
        )
        .into());
    }
    copy(args, &source, superblock, used, replaces)?;
    report(args, &checked, medium, replaces);
    Ok(ExitCode::SUCCESS)
}

fn damaged(what: &[String]) -> ExitCode {
    what.iter().for_each(|what| tell(&format!("damaged: {what}")));
    tell("nothing was written");
    ExitCode::from(DAMAGED)
}

/// Returns true if the two are names of one directory or device.
fn is_same(source: &Path, data: &Path) -> bool {
    match (fs::canonicalize(source), fs::canonicalize(data)) {
        (Ok(source), Ok(data)) => source == data,
        _ => false,
    }
}

/// Writes the copy: what is `used`, else zeroes.
fn copy(
    args: &Args,
    source: &Region,
    superblock: Superblock,
    used: Vec<Span>,
    replaces: bool,
) -> Result<(), Failure> {
    let mut fill = |at: u64, chunk: &mut [u8]| {
        let whole = Span::new(at, chunk.len() as u64);
        let first = used.partition_point(|span| span.end() <= at);
        for span in used[first..].iter().take_while(|span| span.overlaps(whole)) {
            let (from, to) = (span.at.max(at), span.end().min(whole.end()));
            let index = |offset: u64| usize::try_from(offset - at).expect("inside a chunk");
            let read = source.read_at(&mut chunk[index(from)..index(to)], from);
            read.map_err(|error| Error::Io { action: "read", path: source.path().into(), error })?;
        }
        Ok(())
    };
    let bytes = superblock.geometry.region_bytes();
    let text = format!("copying a region of {} to {}", size_text(bytes), args.data.display());
    with_progress(text, bytes, |progress| {
        if replaces {
            source.replace(superblock, &mut fill, progress)
        } else {
            Region::create_from(&args.data, superblock, &mut fill, progress)
        }
    })?;
    Ok(())
}

fn report(args: &Args, checked: &Checked, medium: MediumKind, replaces: bool) {
    let (source, data, medium) = (args.source.display(), args.data.display(), medium.name());
    let Checked { values, bytes, .. } = checked;
    let plural = if *values == 1 { "" } else { "s" };
    tell(&format!(
        "adopted {values} live record{plural} of {bytes} bytes from {source}: all of them verify"
    ));
    if replaces {
        tell("the copy has taken the place of the region");
    } else {
        tell(&format!(
            "{source} is as it was; it is the same region: go on with one of the two only"
        ));
    }
    tell(&format!("serve it with: impasto serve --data {data} --medium {medium}"));
}
