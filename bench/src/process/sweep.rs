//! `impasto-bench sweep`: removes directories when the program that has made them has ended, in
//! whatever way: as a keeper, it waits for the end of a pipe.
//!
//! Keepers remove what was given away with a server; this is for the rest: files without a server,
//! and directories whose server is not there yet.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::cli::Failure;

/// Options of the hidden `impasto-bench sweep`.
#[derive(Debug, clap::Args)]
pub(crate) struct SweepArgs {
    /// Whose they are, for who looks at processes; they come line by line
    #[arg(long, value_name = "PID")]
    parent: u32,
}

/// Waits for the end of the input, and removes what is still there.
pub(crate) fn sweep(_args: &SweepArgs) -> Result<ExitCode, Failure> {
    // Who sends these to everybody sends them to the program that measures, too.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let lines = io::stdin().lock().split(b'\n').map_while(Result::ok);
    let dirs: Vec<PathBuf> = lines.map(|line| OsString::from_vec(line).into()).collect();
    // Most are gone; the keeper of a server that writes to one comes behind.
    dirs.iter().for_each(|dir| drop(fs::remove_dir_all(dir)));
    Ok(ExitCode::SUCCESS)
}

/// Has a directory removed when this process ends, if it is still there then.
pub(crate) fn remove_at_the_end(dir: &Path) -> io::Result<()> {
    static SWEEPER: Mutex<Option<Child>> = Mutex::new(None);
    let mut sweeper = SWEEPER.lock().expect("nobody panics with it");
    if sweeper.is_none() {
        let mut command = Command::new(env::current_exe()?);
        command.args(["sweep", "--parent", &std::process::id().to_string()]);
        command.process_group(0).stdin(Stdio::piped());
        *sweeper = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    let stdin = sweeper.as_mut().and_then(|sweeper| sweeper.stdin.as_mut());
    stdin.map_or(Ok(()), |stdin| stdin.write_all(&[dir.as_os_str().as_bytes(), b"\n"].concat()))
}
