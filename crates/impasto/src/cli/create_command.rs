//! `impasto create`: a region, made and not served.

use std::{path::PathBuf, process::ExitCode};

use impasto::region::{Error, Examined, Region, layout::Geometry};
use serde::Serialize;

use super::{
    Failure,
    args::{self, MediumArg, size_text},
    create::{self, Wanted},
    examine, tell, tell_json,
};

/// Options of `impasto create`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the region, made if it is missing; or a /dev/dax, which is the region
    #[arg(long, value_name = "DIR", default_value = "./impasto-data")]
    data: PathBuf,
    /// Size of the region, fixed from now on: a multiple of 1MiB, at least 16MiB [default: 1GiB; on
    /// a device: all of it]
    #[arg(long, value_parser = args::size)]
    size: Option<Geometry>,
    /// What makes records durable
    #[arg(long, value_enum, default_value_t = MediumArg::Auto)]
    medium: MediumArg,
    /// Write over whatever stands on the /dev/dax, a region included
    #[arg(long)]
    overwrite: bool,
    /// Say it in JSON
    #[arg(long)]
    json: bool,
}

/// What was made, as `--json` has it.
#[derive(Debug, Serialize)]
struct Report {
    region: String,
    uuid: String,
    bytes: u64,
    medium: &'static str,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // Before it is said that one is being made.
    if !args.overwrite && Region::exists(&args.data)? {
        let text = match examine(&args.data, Examined::open) {
            Ok(region) => Error::Exists { path: region.path().into() }.to_string(),
            Err(failure) => failure.to_string(),
        };
        return Err(text.into());
    }
    let wanted = Wanted { dir: &args.data, size: args.size, medium: args.medium, memory: None };
    if args.overwrite {
        create::overwrite(wanted)?
    } else {
        create::create(wanted)?
    }
    let region = examine(&args.data, Examined::open)?;
    let (superblock, _) = region.superblock()?;
    let report = Report {
        region: region.path().display().to_string(),
        uuid: superblock.uuid.to_string(),
        bytes: superblock.geometry.region_bytes(),
        medium: superblock.medium.name(),
    };
    if args.json {
        tell_json(&report)?;
    } else {
        let Report { region, uuid, bytes, medium } = &report;
        let (dir, size) = (args.data.display(), size_text(*bytes));
        tell(&format!("created {region}: {size} on {medium}, {uuid}"));
        tell(&format!("serve it with: impasto serve --data {dir} --medium {medium}"));
    }
    Ok(ExitCode::SUCCESS)
}
