//! `impasto-bench load`: one load on one server that is already running.

mod bar;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use serde_json::Value;

use crate::{
    cli::{self, Failure, tell},
    client::{self, Keyed, Limit, Order, Pace, Plan, Trim, Watch, Work},
    machine::Machine,
    protocol::{Request, Values},
    statistics::Random,
    target::{self, Scheme, Target},
};

/// Options of `impasto-bench load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server: http:// and a path to POST to if it is not Impasto's log `load`, redis://,
    /// memcache://, beanstalk://, postgres://USER@HOST/DATABASE, etcd://
    #[arg(long, value_parser = target::target, default_value = "http://127.0.0.1:8080")]
    target: Target,
    /// Connections
    #[arg(long, default_value = "32", value_parser = connections)]
    connections: usize,
    /// Requests on the way on each of them
    #[arg(long, default_value = "1", value_parser = pipeline)]
    pipeline: usize,
    /// Open a connection for each request; its time counts
    #[arg(long, conflicts_with = "pipeline")]
    short: bool,
    /// Open loop: so many requests in a second, whatever became of those before [default: each
    /// reply makes room for the next request]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Length of a body or value
    #[arg(long, default_value = "1024", value_parser = size)]
    size: u64,
    /// Length of the whole HTTP request: a field of no meaning fills it up
    #[arg(long, value_parser = request_bytes)]
    request_bytes: Option<usize>,
    /// What HTTP's Host says, instead of the target's address
    #[arg(long)]
    host: Option<String>,
    /// Share of reads, from 0 to 1; reads and writes go to --keys then
    #[arg(long, value_parser = share, conflicts_with_all = ["get", "trim", "request_bytes"])]
    reads: Option<f64>,
    /// How many keys there are; by HTTP: records of the log
    #[arg(long, default_value = "10000", value_parser = keys)]
    keys: usize,
    /// Which keys: uniform, zipf (as YCSB's, 0.99), or zipf:EXPONENT
    #[arg(long, default_value = "uniform", value_parser = order)]
    distribution: Order,
    /// The same keys come again with the same seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not write each key before reads; one that is not there is an error
    #[arg(long)]
    no_fill: bool,
    /// Stop after so many requests
    #[arg(long, conflicts_with = "seconds")]
    requests: Option<u64>,
    /// Stop after so many seconds
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// Send requests for so many seconds before it is measured
    #[arg(long, default_value = "0", value_parser = seconds, conflicts_with = "requests")]
    warm_up: Duration,
    /// Append one body by HTTP first, then read it: GET what `Location` named
    #[arg(long)]
    get: bool,
    /// Status that every HTTP reply has to have [default: 201, with --get 200]
    #[arg(long)]
    expect: Option<u16>,
    /// Trim Impasto's log whenever so many bytes were appended, and at the end
    #[arg(long, value_parser = cli::size, conflicts_with = "get")]
    trim: Option<u64>,
    /// Give up a request that has no reply after so many seconds
    #[arg(long, default_value = "10", value_parser = patience)]
    patience: Duration,
    /// Cores to run on, one thread each: `1` or `1,2`
    #[arg(long, value_delimiter = ',')]
    core: Vec<usize>,
    /// Processes of the server, to count their CPU time and that of their children: `17` or `17,18`
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut plan = plan(args)?;
    let reads = args.reads.is_some_and(|reads| reads > 0.0);
    let fills = reads && !args.no_fill && args.target.scheme != Scheme::Beanstalk;
    let watch = Watch::default();
    bar::beside("filling", Limit::Requests(args.keys as u64), &watch, || {
        client::fill(&mut plan, fills, &watch)
    })?;
    let watch = Watch::default();
    let whole = match plan.limit {
        Limit::Time(time) => Limit::Time(plan.warm_up + time),
        limit @ Limit::Requests(_) => limit,
    };
    let outcome = bar::beside("load", whole, &watch, || client::run_watched(&plan, &watch))?;
    let machine = Machine::look(args.seed);
    if args.json {
        let mut all = machine.to_json();
        if let (Value::Object(all), Value::Object(found)) = (&mut all, outcome.to_json()) {
            all.extend(found);
        }
        tell(&all.to_string());
    } else {
        tell(&format!("{machine}\n{outcome}"));
    }
    let is_good = outcome.errors.total() == 0 && outcome.requests > 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(args: &Args) -> Result<Plan, Failure> {
    let Target { scheme, address, path, .. } = &args.target;
    let is_http = *scheme == Scheme::Http;
    if !is_http && (args.get || args.trim.is_some() || args.request_bytes.is_some()) {
        return Err("--get, --trim and --request-bytes are for http:// alone".into());
    }
    let work = if is_http && args.reads.is_none() {
        Work::Same(request(args)?)
    } else {
        Work::Keyed(Keyed {
            dialect: args.target.dialect(),
            values: Values::new(usize::try_from(args.size)?),
            keys: args.keys as u64,
            reads: args.reads.unwrap_or(0.0),
            order: args.distribution,
            seed: args.seed,
        })
    };
    Ok(Plan {
        connections: args.connections,
        pipeline: args.pipeline,
        short: args.short,
        pace: args.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
        limit: args.requests.map_or(Limit::Time(args.seconds), Limit::Requests),
        warm_up: args.warm_up,
        patience: args.patience,
        trim: args.trim.map(|every_bytes| trim(*address, path, every_bytes)),
        cores: args.core.clone(),
        pids: args.pid.clone(),
        ..Plan::new(*address, work)
    })
}

/// Returns the one request of a constant load over HTTP.
fn request(args: &Args) -> Result<Request, Failure> {
    let Target { address, path, .. } = &args.target;
    let host = args.host.clone().unwrap_or_else(|| address.to_string());
    let body = Random::new(args.size).bytes(usize::try_from(args.size)?);
    let append = Request::new("POST", &host, path, &body).expect_status(201);
    let request = if args.get {
        let stored = client::append(*address, &append, args.patience)?;
        Request::new("GET", &host, &stored, b"").expect_body(body)
    } else {
        append
    };
    let request = if args.short { request.closing() } else { request };
    let request = match args.request_bytes {
        Some(bytes) => {
            let len = request.len_bytes();
            let padded = request.padded_to(bytes);
            padded.ok_or_else(|| {
                format!("a request of {len} bytes cannot be made {bytes} bytes long")
            })?
        }
        None => request,
    };
    Ok(match args.expect {
        Some(status) => request.expect_status(status),
        None => request,
    })
}

/// Returns the trim of all that is in a log of Impasto.
pub(crate) fn trim(address: SocketAddr, log: &str, every_bytes: u64) -> Trim {
    let path = format!("{log}?before={}", u64::MAX);
    Trim { request: Request::new("DELETE", address, &path, b""), every_bytes }
}

fn connections(text: &str) -> Result<usize, String> {
    count(text, CONNECTIONS_MAX)
}

fn pipeline(text: &str) -> Result<usize, String> {
    count(text, PIPELINE_MAX)
}

fn request_bytes(text: &str) -> Result<usize, String> {
    count(text, SIZE_MAX)
}

fn keys(text: &str) -> Result<usize, String> {
    count(text, KEYS_MAX)
}

fn count(text: &str, max: usize) -> Result<usize, String> {
    let found = text.parse().ok().filter(|count| (1..=max).contains(count));
    found.ok_or_else(|| format!("a number from 1 to {max}"))
}

fn size(text: &str) -> Result<u64, String> {
    let size = cli::size(text)?;
    if size <= SIZE_MAX as u64 { Ok(size) } else { Err(format!("at most {SIZE_MAX} bytes")) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let time = cli::seconds(text)?;
    if time <= TIME_MAX { Ok(time) } else { Err(format!("at most {} s", TIME_MAX.as_secs())) }
}

fn patience(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    if time.is_zero() { Err("more than 0 seconds".into()) } else { Ok(time) }
}

fn share(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    found.ok_or_else(|| "a share from 0 to 1, like 0.9".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
    found.ok_or_else(|| format!("requests in a second, above 0 and at most {RATE_MAX}"))
}

fn order(text: &str) -> Result<Order, String> {
    let exponent = match text.split_once(':') {
        None if text == "uniform" => return Ok(Order::Uniform),
        None if text == "zipf" => Some(YCSB_EXPONENT),
        Some(("zipf", exponent)) => exponent.parse().ok().filter(|e| (0.0..=100.0).contains(e)),
        _ => None,
    };
    let known = "known are uniform, zipf, and zipf:EXPONENT with an exponent from 0 to 100";
    exponent.map(Order::Zipf).ok_or_else(|| known.into())
}

const YCSB_EXPONENT: f64 = 0.99;
const RATE_MAX: f64 = 1e7;
/// An address of the client has not even as many ports.
const CONNECTIONS_MAX: usize = 65_536;
/// All of them are kept in memory, on each connection.
const PIPELINE_MAX: usize = 100_000;
/// Twice what Redis takes.
const SIZE_MAX: usize = 1 << 30;
/// The name of a key has 12 digits.
const KEYS_MAX: usize = 1_000_000_000_000;
/// A year.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_people_write_them() {
        assert_eq!(order("uniform"), Ok(Order::Uniform));
        assert_eq!(order("zipf"), Ok(Order::Zipf(0.99)));
        assert_eq!(order("zipf:1.2"), Ok(Order::Zipf(1.2)));
        for bad in ["zip", "zipf:", "zipf:-1", "zipf:NaN", "uniform:1"] {
            assert!(order(bad).unwrap_err().contains("zipf:EXPONENT"), "{bad}");
        }
        assert_eq!((share("0.9"), rate("1e3")), (Ok(0.9), Ok(1000.0)));
        assert!(share("1.1").is_err() && share("NaN").is_err());
        assert!(rate("0").is_err() && rate("inf").is_err());
    }

    /// Numbers that fit their type and nothing else made it panic, or take all memory.
    #[test]
    fn absurd_numbers_are_refused_with_what_is_possible() {
        let most = u64::MAX.to_string();
        for parse in [connections, pipeline, request_bytes, keys] {
            assert!(parse(&most).unwrap_err().contains("from 1 to"));
            assert!(parse("0").is_err() && parse("-1").is_err() && parse("1") == Ok(1));
        }
        assert!(size(&most).unwrap_err().contains("at most") && size("64MiB").is_ok());
        assert!(seconds("1e18").unwrap_err().contains("at most") && seconds("0").is_ok());
        assert!(patience("0").is_err() && patience("0.1").is_ok());
    }
}
