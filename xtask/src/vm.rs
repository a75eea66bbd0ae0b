//! The server on emulated persistent memory, and on an old kernel: guests of QEMU that serve under
//! load, are killed, boot again on the same memory, and are asked for all that was acknowledged.
//!
//! `vm/README.md` says what that shows and what not. The guest's side is `vm/init`.

mod archive;
mod guest;
mod http;
mod image;
mod load;
mod model;
mod packages;
mod random;
mod refused;
mod served;

use std::{env, fs, path::PathBuf, time::SystemTime};

use self::{
    guest::{DRIVE_BYTES, Drive, Machine},
    load::Site,
    packages::{Kernel, TARGET},
    random::Random,
    served::Served,
};
use crate::{
    Failure,
    run::{Skips, Step, skipped, sorted, target_dir, timed},
};

/// What a run is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    rounds: u64,
    skips: Skips,
    /// Whether the media are kept when all went well.
    keep: bool,
}

impl Options {
    /// Reads `--rounds N`, `--deny-skips` and `--keep`.
    pub(crate) fn parse(args: &[&str]) -> Result<Self, Failure> {
        let mut options = Self { rounds: 5, skips: Skips::Allow, keep: false };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match *arg {
                "--rounds" => {
                    let value = args.next().ok_or("--rounds needs a number")?;
                    let rounds = value.parse();
                    options.rounds =
                        rounds.map_err(|_| format!("--rounds {value}: not a number"))?;
                }
                "--deny-skips" => options.skips = Skips::Deny,
                "--keep" => options.keep = true,
                _ => return Err(format!("vm has no option {arg}").into()),
            }
        }
        Ok(options)
    }
}

/// A kernel's line, and Debian 12's package of it.
type Wanted = (&'static str, &'static str);
/// Receives share landing buffers.
const NEW_KERNEL: Wanted = ("6.12", "linux-image-6.12-cloud-amd64");
/// The oldest kernel that the server runs on: each receive takes a piece of a landing buffer.
const OLD_KERNEL: Wanted = ("6.1", "linux-image-cloud-amd64");

/// Runs all guests, one after the other.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if !cfg!(target_arch = "x86_64") {
        return skipped("vm", options.skips, "the guest is one for x86_64");
    }
    if let Some(why) = packages::missing()? {
        return skipped("vm", options.skips, &why);
    }
    let dir = target_dir().join("vm");
    let kernels = [NEW_KERNEL, OLD_KERNEL]
        .map(|(line, meta)| packages::kernel(line, meta, &dir.join("kernels")));
    let [new, old] = match kernels {
        [Ok(new), Ok(old)] => [new, old],
        [Err(why), _] | [_, Err(why)] => return skipped("vm", options.skips, &why.to_string()),
    };
    let seed = seed()?;
    println!("vm: IMPASTO_SEED={seed}");
    let lab = Lab::prepare(dir)?;
    let mut random = Random(seed);
    timed("vm: persistent memory, power fails", || {
        let drives = [Drive::Nvdimm(lab.drive("nvdimm")?)];
        let machine = lab.machine(&new, "nvdimm", &drives)?;
        let sites = vec![Site::new("fs", 0, seed), Site::new("dax", 1, seed)];
        Served::new(&machine, sites, "medium     pmem").power_cuts(options.rounds, &mut random)
    })?;
    timed("vm: old kernel, the server is killed", || {
        let drives = [Drive::Disk(lab.drive("disk")?)];
        let machine = lab.machine(&old, "kernel", &drives)?;
        let sites = vec![Site::new("disk", 0, seed), Site::new("shm", 1, seed)];
        Served::new(&machine, sites, "io         io_uring").crashes(CRASHES, &mut random)
    })?;
    timed("vm: io_uring is forbidden, the server is killed", || {
        let drives = [Drive::Disk(lab.drive("disk")?)];
        let machine = lab.machine(&new, "sandbox", &drives)?;
        let sites = vec![Site::new("disk", 0, seed), Site::new("shm", 1, seed)];
        Served::new(&machine, sites, "io         epoll").crashes(1, &mut random)
    })?;
    timed("vm: what is no persistent memory is refused", || {
        let drives = [Drive::RawNvdimm(lab.drive("raw")?), Drive::VirtioPmem(lab.drive("virtio")?)];
        refused::all(&lab.machine(&new, "refuse", &drives)?)
    })?;
    if !options.keep {
        lab.discard()?;
    }
    Ok(())
}

/// How often the server on an old kernel is killed.
const CRASHES: u64 = 2;

/// Returns the seed that is set, or one that is not known before.
fn seed() -> Result<u64, Failure> {
    match env::var("IMPASTO_SEED") {
        Ok(text) => Ok(text.parse().map_err(|_| format!("IMPASTO_SEED={text}: not a number"))?),
        Err(_) => Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_secs()),
    }
}

/// What guests are made of, and where.
struct Lab {
    dir: PathBuf,
    /// What is loaded into a guest's memory, for any kernel.
    base: Vec<u8>,
}

impl Lab {
    /// Builds the server.
    fn prepare(dir: PathBuf) -> Result<Self, Failure> {
        let target = dir.join("server");
        let args = format!("build --release --locked --target {TARGET} -p impasto");
        Step::cargo("vm: server", &args)
            .env("CARGO_TARGET_DIR", target.to_string_lossy())
            // What only a debugger reads need not be in the guest's memory.
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
            .run()?;
        let base = image::base(&target.join(TARGET).join("release/impasto"))?;
        fs::create_dir_all(dir.join("run"))?;
        Ok(Self { dir, base })
    }

    /// Returns the path of something that a run makes: a medium, an image, a console's log.
    fn made(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(name)
    }

    /// Makes a medium; one of that name is thrown away.
    fn drive(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.made(&format!("{name}.img"));
        fs::File::create(&path)?.set_len(DRIVE_BYTES)?;
        Ok(path)
    }

    /// Returns what boots `kernel` for `job`.
    fn machine<'a>(
        &self,
        kernel: &'a Kernel,
        job: &'static str,
        drives: &'a [Drive],
    ) -> Result<Machine<'a>, Failure> {
        let image = self.made(&format!("{job}.initrd"));
        fs::write(&image, [&*self.base, &image::modules(kernel)?].concat())?;
        let log = self.made(&format!("{job}.log"));
        fs::write(&log, "")?;
        Ok(Machine { kernel: &kernel.image, image, job, drives, log })
    }

    /// Throws away what was made for a run, but for the logs.
    fn discard(&self) -> Result<(), Failure> {
        for path in sorted(&self.dir.join("run"))? {
            if path.extension().is_none_or(|e| e != "log") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_named() {
        let parsed = Options::parse(&["--rounds", "9", "--deny-skips", "--keep"]).unwrap();
        assert_eq!(parsed, Options { rounds: 9, skips: Skips::Deny, keep: true });
        let none = Options::parse(&[]).unwrap();
        assert_eq!(none, Options { rounds: 5, skips: Skips::Allow, keep: false });
        for bad in [&["--rounds"][..], &["--rounds", "many"], &["--cats"]] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }
}
