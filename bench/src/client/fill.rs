//! Before reads: every key is written once.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{Dialect, Limit, Order, Pace, Plan, Watch, Work, run_watched};
use crate::{
    outcome::LoadError,
    protocol::{Request, http::Replies},
};

/// Makes what keyed work needs: a table, if there is one; if `with_values`, the value of each key.
/// Records of a log then begin where it says in the plan. Other work needs nothing.
///
/// # Errors
/// If a single value could not be written.
pub fn fill(plan: &mut Plan, with_values: bool, watch: &Watch) -> Result<(), LoadError> {
    let Work::Keyed(keyed) = &mut plan.work else { return Ok(()) };
    let mut writes = keyed.clone();
    writes.reads = 0.0;
    writes.order = Order::InTurn { from: 0, step: 1 };
    let mut connections = plan.connections;
    match &mut keyed.dialect {
        Dialect::Records { log, first } if with_values => {
            // Records have their numbers in the order of the keys: over one connection. That of
            // the first key is behind this one.
            connections = 1;
            let request = Request::new("POST", plan.target, log, b"impasto-bench");
            let path = append(plan.target, &request, plan.patience)?;
            let number = path.rsplit_once('/').and_then(|(_, number)| number.parse::<u64>().ok());
            let found = number.ok_or_else(|| LoadError::Fill(format!("no record's path: {path}")));
            *first = found? + 1;
        }
        Dialect::Postgres { user, database, .. } => {
            let (user, database) = (user.clone(), database.clone());
            let mut table = writes.clone();
            table.dialect = Dialect::Postgres { user, database, creates: true };
            write_all(plan, 1, Work::Keyed(table), 1, watch)?;
        }
        _ => {}
    }
    let keys = writes.keys;
    if with_values {
        write_all(plan, connections, Work::Keyed(writes), keys, watch)
    } else {
        Ok(())
    }
}

fn write_all(
    plan: &Plan,
    connections: usize,
    work: Work,
    requests: u64,
    watch: &Watch,
) -> Result<(), LoadError> {
    let fill = Plan {
        connections,
        pipeline: FILL_PIPELINE,
        work,
        short: false,
        pace: Pace::Closed,
        limit: Limit::Requests(requests),
        trim: None,
        pids: Vec::new(),
        ..plan.clone()
    };
    let outcome = run_watched(&fill, watch)?;
    if outcome.requests == requests {
        return Ok(());
    }
    let missing = requests - outcome.requests;
    Err(LoadError::Fill(format!("{missing} of {requests} are missing; errors {}", outcome.errors)))
}

/// Sends one request over HTTP, and returns the `Location` of what it has made.
///
/// # Errors
/// If there is none.
pub(crate) fn append(
    target: SocketAddr,
    request: &Request,
    patience: Duration,
) -> Result<String, LoadError> {
    let fails = |error: std::io::Error| LoadError::Fill(error.to_string());
    let until = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&target, patience)
        .map_err(|error| LoadError::Connect { target, error })?;
    stream.set_read_timeout(Some(patience)).map_err(fails)?;
    stream.set_write_timeout(Some(patience)).map_err(fails)?;
    stream.write_all(request.as_bytes()).map_err(fails)?;
    let (mut text, mut replies) = (Vec::new(), Replies::default());
    let mut scratch = [0; 4096];
    let head = loop {
        let read = stream.read(&mut scratch).map_err(fails)?;
        text.extend_from_slice(&scratch[..read]);
        let found = replies.next(&mut &scratch[..read], |_| {});
        if let Some(head) = found.map_err(|malformed| LoadError::Fill(malformed.to_string()))? {
            break head;
        }
        if read == 0 || Instant::now() > until {
            return Err(LoadError::Fill("no whole reply".into()));
        }
    };
    let text = String::from_utf8_lossy(&text);
    let field = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    match field {
        Some(path) if head.status == 201 && path.starts_with('/') => Ok(path),
        _ => Err(LoadError::Fill(format!("the append got {} and no Location", head.status))),
    }
}

/// Requests on the way on each connection: the time that it takes is nobody's figure.
const FILL_PIPELINE: usize = 64;
