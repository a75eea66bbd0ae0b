//! How fast `impasto verify` and `impasto inspect` read, against reading the same file in sequence.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    process::Command,
    time::Instant,
};

use rustix::fs::OFlags;
use serde_json::Value;

use super::{
    lines::Bench,
    report::{Aim, Figure, Line},
};
use crate::{
    cli::Failure,
    process::{Server, impasto},
    statistics::{Random, Spread},
};

/// Rates in bytes per second.
#[derive(Debug, Default)]
struct Rates {
    raw: Vec<f64>,
    verify: Vec<f64>,
    inspect: Vec<f64>,
}

impl Bench<'_> {
    /// Reading a region that is nine tenths full, half of it log and half of it bodies.
    pub(super) fn reading(&self, seed: u64) -> Result<Line, Failure> {
        const NAME: &str = "verify: reads of a full region on disk, against sequential reading";
        let dir = self.args.bed.disk()?;
        let data = dir.path().join("region");
        let region = self.args.bed.region.max(REGION_BYTES_MIN);
        let server = self.serving(&data, region)?;
        fill(server.address(), "log", LOG_VALUE_BYTES, region / 20 * 9)?;
        fill(server.address(), "bodies", BODY_BYTES, region / 20 * 9)?;
        drop(server);
        // The first look waits for what the server had under way.
        ask(&data, "verify")?;

        let mut random = Random::new(seed);
        let mut rates = Rates::default();
        for _ in 0..self.args.rounds {
            for turn in random.order(3) {
                match turn {
                    0 => rates.raw.push(sequential(&data.join("region"))?),
                    1 => rates.verify.push(ask(&data, "verify")?),
                    _ => rates.inspect.push(ask(&data, "inspect")?),
                }
            }
        }
        let figure = |name: &str, of: &[f64], to: Option<&[f64]>, aim| {
            let ratios = of.iter().enumerate().map(|(n, rate)| rate / to.map_or(1e6, |to| to[n]));
            Figure { name: name.to_owned(), found: Spread::of(ratios), aim }
        };
        let Rates { raw, verify, inspect } = &rates;
        let figures = vec![
            figure("MB/s, verify/raw sequential read", verify, Some(raw), Aim::AtLeast(0.5)),
            figure("MB/s, inspect/raw sequential read", inspect, Some(raw), Aim::AtLeast(0.5)),
            figure("MB/s, raw sequential read", raw, None, Aim::None),
            figure("MB/s, verify", verify, None, Aim::None),
            figure("MB/s, inspect", inspect, None, Aim::None),
        ];
        Ok(Line { name: NAME, cells: Vec::new(), figures, skipped: None })
    }

    fn serving(&self, data: &Path, region: u64) -> Result<Server, Failure> {
        let (data, region) = (data.to_string_lossy().into_owned(), region.to_string());
        let args = ["serve", "--http", "127.0.0.1:0", "--medium", "disk", "--data", &data];
        let args = args.into_iter().chain(["--size", &region]).map(str::to_owned);
        let cores = [self.args.bed.server_core, self.args.bed.client_core];
        Server::start(&impasto()?, &args.collect::<Vec<_>>(), &cores)
    }
}

/// A smaller one is read before a disk is at its pace.
const REGION_BYTES_MIN: u64 = 1 << 30;
/// It stands in the log.
const LOG_VALUE_BYTES: usize = 16 << 10;
const BODY_BYTES: usize = 4 << 20;

/// Appends values of `len` bytes, `bytes` of them in all.
fn fill(target: SocketAddr, log: &str, len: usize, bytes: u64) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(target)?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let mut request =
        format!("POST /v1/logs/{log} HTTP/1.1\r\nhost: impasto\r\ncontent-length: {len}\r\n\r\n");
    let body = Random::new(len as u64).bytes(len);
    // More than one is under way, so that a commit has several.
    let (count, depth) = (bytes / len as u64, if len > 1 << 20 { 1 } else { 16 });
    let head = std::mem::take(&mut request);
    for first in (0..count).step_by(depth) {
        let several = (count - first).min(depth as u64);
        let one = [head.as_bytes(), &body].concat();
        stream.write_all(&one.repeat(usize::try_from(several)?))?;
        for _ in 0..several {
            expect_created(&mut replies)?;
        }
    }
    Ok(())
}

fn expect_created(replies: &mut BufReader<TcpStream>) -> Result<(), Failure> {
    let mut line = String::new();
    replies.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 201") {
        return Err(format!("an append was answered {}", line.trim_end()).into());
    }
    let mut body_bytes = 0;
    loop {
        line.clear();
        replies.read_line(&mut line)?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", bytes)) => body_bytes = bytes.parse()?,
            Some(_) => {}
            None => break,
        }
    }
    io::copy(&mut replies.take(body_bytes), &mut io::sink())?;
    Ok(())
}

/// Runs a command over a region, from its start to its end, and returns its rate.
fn ask(data: &Path, command: &str) -> Result<f64, Failure> {
    let start = Instant::now();
    let output = Command::new(impasto()?).args([command, "--json"]).arg(data).output()?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("impasto {command}: {}", text.trim_end()).into());
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let bytes = report["read_bytes"].as_f64().ok_or("the report has no read_bytes")?;
    Ok(bytes / seconds)
}

/// Reads all of a file as `dd iflag=direct` does, one request after the other, in requests of 1 MiB
/// and then of 4 MiB, and returns the better rate.
fn sequential(path: &Path) -> io::Result<f64> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag is a positive int");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut best = 0.0_f64;
    for chunk in [1 << 20, 4 << 20] {
        let start = Instant::now();
        let bytes = read_all(&file, chunk)?;
        best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn read_all(file: &File, chunk: usize) -> io::Result<u64> {
    const BLOCK: usize = 4096;
    let mut memory = vec![1; chunk + BLOCK];
    let from = memory.as_ptr().align_offset(BLOCK);
    let buffer = &mut memory[from..from + chunk];
    let mut at = 0;
    loop {
        match file.read_at(buffer, at)? {
            0 => return Ok(at),
            bytes => at += bytes as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A floor that is read from memory would damn everything above it.
    #[test]
    fn all_of_a_file_is_read_directly() {
        let own = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 5 << 20]).unwrap();
        assert!(sequential(&path).unwrap() > 0.0);
        let file = File::open(&path).unwrap();
        assert_eq!(read_all(&file, 1 << 20).unwrap(), 5 << 20);
    }
}
