//! `impasto version`: what this program is, what it reads, and what it finds here.

use std::process::ExitCode;

use impasto::{
    region::{CpuFlush, layout::INCOMPAT_LOG_V1},
    uring::Uring,
};
use rustix::system::uname;
use serde::Serialize;

use super::{Failure, tell, tell_json, with_causes};

/// Options of `impasto version`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Say it in JSON
    #[arg(long)]
    json: bool,
}

/// What is told, as `--json` has it.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    format: Format,
    target: String,
    kernel: String,
    io_uring: bool,
    /// Why there is no io_uring.
    #[serde(skip_serializing_if = "Option::is_none")]
    io_uring_error: Option<String>,
    /// How cache lines are written back; `None` if `shm` and `pmem` cannot be served here.
    flush: Option<&'static str>,
}

/// Feature bits of a region's superblock that are known.
#[derive(Debug, Serialize)]
struct Format {
    incompat: u64,
    ro_compat: u64,
    compat: u64,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let error = Uring::new(8).err().map(|error| with_causes(&error));
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        format: Format { incompat: INCOMPAT_LOG_V1, ro_compat: 0, compat: 0 },
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        kernel: uname().release().to_string_lossy().into_owned(),
        io_uring: error.is_none(),
        io_uring_error: error,
        flush: CpuFlush::is_supported().then(|| CpuFlush::detect().name()),
    };
    if args.json {
        tell_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    tell(&format!("impasto {}", report.version));
    tell("format    log v1 (docs/format.md), as of this version");
    tell(&format!("machine   {}, kernel {}", report.target, report.kernel));
    tell(&format!("io_uring  {}", report.io_uring_error.as_deref().unwrap_or("yes")));
    let none = "none: --medium shm is not available on this kind of CPU";
    tell(&format!("flush     {}", report.flush.unwrap_or(none)));
    Ok(ExitCode::SUCCESS)
}
