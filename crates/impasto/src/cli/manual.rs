//! `impasto man`, `impasto completions`: made at run time, so that they are those of this program.

use std::{io, path::PathBuf, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure};

/// Options of `impasto man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Directory for a page of each command [default: the page of impasto itself, to stdout]
    dir: Option<PathBuf>,
}

/// Options of `impasto completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let command = Cli::command();
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(command, dir)
            .map_err(|error| format!("cannot write manual pages to {}: {error}", dir.display()))?,
        None => clap_mangen::Man::new(command).render(&mut io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    // Made in memory: a pipe that closes early is no reason to panic.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "impasto", &mut text);
    io::Write::write_all(&mut io::stdout(), &text)?;
    Ok(ExitCode::SUCCESS)
}
