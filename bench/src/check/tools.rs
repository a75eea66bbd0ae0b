//! Other load generators: their command lines, and what they say.

use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{Args, KEYS, LOG};
use crate::cli::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Wrk,
    RedisBenchmark,
    Memtier,
}

/// What a tool has measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    pub(super) rate: f64,
    pub(super) mean_us: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Tool {
    pub(super) const ALL: [Self; 3] = [Self::Wrk, Self::RedisBenchmark, Self::Memtier];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Wrk => "wrk",
            Self::RedisBenchmark => "redis-benchmark",
            Self::Memtier => "memtier_benchmark",
        }
    }

    /// Returns what is not installed, and what installs it.
    pub(super) fn missing(self) -> Option<String> {
        let wanted: &[(&str, &str)] = match self {
            Self::Wrk => &[("wrk", "apt-get install wrk")],
            Self::RedisBenchmark => &[
                ("redis-server", "apt-get install redis-server"),
                ("redis-benchmark", "apt-get install redis-tools"),
            ],
            Self::Memtier => &[
                ("redis-server", "apt-get install redis-server"),
                ("memtier_benchmark", "see https://github.com/redis/memtier_benchmark"),
            ],
        };
        let (name, install) = wanted.iter().find(|(name, _)| !is_installed(name))?;
        Some(format!("there is no {name}: {install}"))
    }

    /// Loads a server for a window, or with about as many requests as go into one.
    pub(super) fn run(
        self,
        args: &Args,
        connections: usize,
        server: SocketAddr,
        requests: u64,
    ) -> Result<Figures, Failure> {
        let dir = tempfile::Builder::new().prefix("impasto-bench-").tempdir()?;
        let (connections, size) = (connections.to_string(), args.size.to_string());
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let seconds = args.window.to_string();
        let keys = KEYS.to_string();
        let requests = requests.to_string();
        let file = dir.path().join("file");
        let path = file.to_string_lossy();
        let url = format!("http://{server}{LOG}");
        let command: Vec<&str> = match self {
            Self::Wrk => {
                let script = format!("wrk.method='POST' wrk.body=string.rep('x',{size})");
                fs::write(&file, script)?;
                let (connections, seconds) = (["-c", &connections], ["-d", &seconds]);
                let rest = ["-t", "1", "--latency", "-s", &path, &url];
                [&["wrk"][..], &connections, &seconds, &rest].concat()
            }
            Self::RedisBenchmark => {
                let place = ["-h", &host, "-p", &port, "-c", &connections];
                let work = ["-n", &requests, "-d", &size, "-r", &keys, "-t", "set", "--csv"];
                [&["redis-benchmark"][..], &place, &work].concat()
            }
            Self::Memtier => {
                let place = ["-s", &host, "-p", &port, "-t", "1", "-c", &connections];
                let work = ["--ratio", "1:0", "-d", &size, "--key-maximum", &keys];
                let told = ["--hide-histogram", "--print-percentiles", "50,99"];
                let limit = ["--test-time", &seconds, "--json-out-file", &path];
                [&["memtier_benchmark"][..], &place, &work, &told, &limit].concat()
            }
        };
        let said = run_on(args.client_core, &command)?;
        match self {
            Self::Wrk => of_wrk(&said),
            Self::RedisBenchmark => of_redis_benchmark(&said),
            Self::Memtier => of_memtier(&fs::read_to_string(&file)?),
        }
        .ok_or_else(|| format!("not understood: {said}").into())
    }
}

/// Runs a command on a core, and returns what it says.
fn run_on(core: usize, command: &[&str]) -> Result<String, Failure> {
    let output = Command::new(env::current_exe()?)
        .args(["launch", "--core", &core.to_string()])
        .args(["--parent", &std::process::id().to_string(), "--"])
        .args(command)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("it failed: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
}

fn is_installed(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(name)).any(|path: PathBuf| path.is_file())
}

/// Reads the table that wrk prints. One with errors in it is none.
fn of_wrk(text: &str) -> Option<Figures> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let behind = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
        line.split_whitespace().next()
    };
    let rate = behind("Requests/sec:")?.parse().ok()?;
    let time = |name: &str| time_us(behind(name)?);
    // The line of the averages has the same word as the heading above it, with a space behind.
    let mean_us = time("Latency  ")?;
    Some(Figures { rate, mean_us, p50_us: time("50%")?, p99_us: time("99%")? })
}

/// Reads a time as wrk writes it: `12.34us`, `1.20ms`, `1.05s`.
fn time_us(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

/// Reads two lines, of names and of numbers in quotation marks; times are milliseconds.
fn of_redis_benchmark(text: &str) -> Option<Figures> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("\"test\""));
    let names: Vec<&str> = lines.next()?.split(',').collect();
    let numbers: Vec<&str> = lines.next()?.split(',').collect();
    let number = |name: &str| {
        let at = names.iter().position(|found| found.trim_matches('"') == name)?;
        numbers.get(at)?.trim_matches('"').parse::<f64>().ok()
    };
    let time_us = |name: &str| Some(number(name)? * 1e3);
    Some(Figures {
        rate: number("rps")?,
        mean_us: time_us("avg_latency_ms")?,
        p50_us: time_us("p50_latency_ms")?,
        p99_us: time_us("p99_latency_ms")?,
    })
}

fn of_memtier(text: &str) -> Option<Figures> {
    let json: Value = serde_json::from_str(text).ok()?;
    let all = &json["ALL STATS"]["Totals"];
    let percentile = |name: &str| Some(all["Percentile Latencies"][name].as_f64()? * 1e3);
    // The average is rounded; the sum is not.
    let mean_us = all["Accumulated Latency"].as_f64()? * 1e3 / all["Count"].as_f64()?;
    let (p50_us, p99_us) = (percentile("p50.00")?, percentile("p99.00")?);
    Some(Figures { rate: all["Ops/sec"].as_f64()?, mean_us, p50_us, p99_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is read in the wrong unit makes the comparison a thousand times wrong.
    #[test]
    fn what_the_tools_say_is_read_in_its_units() {
        let (rate, mean_us) = (1234.5, 500.0);
        let wanted = Some(Figures { rate, mean_us, p50_us: 250.0, p99_us: 1500.0 });
        let wrk = "    Latency   500.00us  1.0ms\n  Latency Distribution\n\
            50%  250.00us\n     75%  1.00ms\n     99%    1.50ms\nRequests/sec:   1234.50\n";
        assert_eq!(of_wrk(wrk), wanted);
        assert_eq!(of_wrk(&format!("{wrk}  Non-2xx or 3xx responses: 7\n")), None);
        assert_eq!(time_us("1.50s"), Some(1.5e6));
        let csv = "WARNING: no CONFIG\n\
            \"test\",\"rps\",\"avg_latency_ms\",\"p50_latency_ms\",\"p99_latency_ms\"\n\
            \"SET\",\"1234.50\",\"0.500\",\"0.250\",\"1.500\"\n";
        assert_eq!(of_redis_benchmark(csv), wanted);
        let json = r#"{"ALL STATS":{"Totals":{"Ops/sec":1234.5,"Accumulated Latency":50,"Count":100,
            "Percentile Latencies":{"p50.00":0.25,"p99.00":1.5}}}}"#;
        assert_eq!(of_memtier(json), wanted);
        assert_eq!([of_wrk(""), of_redis_benchmark(""), of_memtier("")], [None; 3]);
    }
}
