//! `impasto-bench load`: one load on one server that is already running.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    cli::{self, Failure, Target, tell},
    client::{self, Limit, Plan, Trim, Work},
    outcome::LoadError,
    protocol::{Request, http::Replies},
    statistics::Random,
};

/// Options of `impasto-bench load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server, and a path to POST to if it is not Impasto's log `load`
    #[arg(long, value_parser = cli::target, default_value = "http://127.0.0.1:8080")]
    target: Target,
    /// Connections
    #[arg(long, default_value = "32", value_parser = cli::positive)]
    connections: usize,
    /// Requests on the way on each of them
    #[arg(long, default_value = "1", value_parser = cli::positive)]
    pipeline: usize,
    /// Length of a body
    #[arg(long, default_value = "1024", value_parser = cli::size)]
    size: u64,
    /// Stop after so many requests
    #[arg(long, conflicts_with = "seconds")]
    requests: Option<u64>,
    /// Stop after so many seconds
    #[arg(long, default_value = "5", value_parser = cli::seconds)]
    seconds: Duration,
    /// Send requests for so many seconds before it is measured
    #[arg(long, default_value = "0", value_parser = cli::seconds, conflicts_with = "requests")]
    warm_up: Duration,
    /// Append one body first, then read it: GET what `Location` named
    #[arg(long)]
    get: bool,
    /// Status that every reply has to have [default: 201, with --get 200]
    #[arg(long)]
    expect: Option<u16>,
    /// Trim Impasto's log whenever so many bytes were appended, and at the end
    #[arg(long, value_parser = cli::size, conflicts_with = "get")]
    trim: Option<u64>,
    /// Give up a request that has no reply after so many seconds
    #[arg(long, default_value = "10", value_parser = cli::seconds)]
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
    let outcome = client::run(&plan(args)?)?;
    if args.json {
        tell(&outcome.to_json().to_string());
    } else {
        tell(&outcome.to_string());
    }
    let is_good = outcome.errors.total() == 0 && outcome.requests > 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(args: &Args) -> Result<Plan, Failure> {
    let Target { address, path } = &args.target;
    let size = usize::try_from(args.size)?;
    let body = Random::new(args.size).bytes(size);
    let append = Request::new("POST", *address, path, &body).expect_status(201);
    let request = if args.get {
        let stored = append_one(*address, &append, args.patience)?;
        Request::new("GET", *address, &stored, b"").expect_body(body)
    } else {
        append
    };
    let request = match args.expect {
        Some(status) => request.expect_status(status),
        None => request,
    };
    Ok(Plan {
        connections: args.connections,
        pipeline: args.pipeline,
        limit: args.requests.map_or(Limit::Time(args.seconds), Limit::Requests),
        warm_up: args.warm_up,
        patience: args.patience,
        trim: args.trim.map(|every_bytes| trim(*address, path, every_bytes)),
        cores: args.core.clone(),
        pids: args.pid.clone(),
        ..Plan::new(*address, Work::Same(request))
    })
}

/// Returns the trim of all that is in a log of Impasto.
pub(crate) fn trim(address: SocketAddr, log: &str, every_bytes: u64) -> Trim {
    let path = format!("{log}?before={}", u64::MAX);
    Trim { request: Request::new("DELETE", address, &path, b""), every_bytes }
}

/// Appends what is to be read, and returns its path.
pub(crate) fn append_one(
    target: SocketAddr,
    request: &Request,
    patience: Duration,
) -> Result<String, Failure> {
    let until = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&target, patience)
        .map_err(|error| LoadError::Connect { target, error })?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(request.as_bytes())?;
    let (mut text, mut replies) = (Vec::new(), Replies::default());
    let mut scratch = [0; 4096];
    let reply = loop {
        let read = stream
            .read(&mut scratch)
            .map_err(|error| format!("no reply to the append of what is to be read: {error}"))?;
        text.extend_from_slice(&scratch[..read]);
        if let Some(reply) = replies.next(&mut &scratch[..read], |_| {})? {
            break reply;
        }
        if read == 0 || Instant::now() > until {
            return Err("no whole reply to the append of what is to be read".into());
        }
    };
    let text = String::from_utf8_lossy(&text);
    let field = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    match field {
        Some(path) if reply.status == 201 && path.starts_with('/') => Ok(path),
        _ => {
            let status = reply.status;
            Err(format!("the append of what is to be read got {status} and no Location").into())
        }
    }
}
