//! Method and target into a call.

use super::{Batch, Extra, Fault, LogName, Status};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Append the body to a log.
    Append(LogName),
    /// Send a record.
    Read(LogName, u64),
    /// Send records of a log, one after the other.
    Batch(LogName, Batch),
    /// Send a log in numbers.
    Describe(LogName),
    /// Send the names of all logs.
    List,
    /// Drop the records of a log below a sequence number.
    Trim(LogName, u64),
    /// Say that the process runs.
    Live,
    /// Say whether appends are taken.
    Ready,
    /// Say what is running.
    Version,
    /// Say how the region is.
    Region,
    /// Likewise, with what was done, for Prometheus.
    Metrics,
    /// Say which methods the target has.
    Options(&'static str),
}

/// Every target with its methods.
pub const ROUTES: [(&str, &str); 8] = [
    ("/v1/logs/{log}", LOG),
    ("/v1/logs/{log}/{seq}", READABLE),
    ("/v1/logs", READABLE),
    ("/v1/region", READABLE),
    ("/metrics", READABLE),
    ("/version", READABLE),
    ("/livez", READABLE),
    ("/readyz", READABLE),
];

const READABLE: &str = "GET, HEAD, OPTIONS";
const LOG: &str = "GET, HEAD, POST, DELETE, OPTIONS";

const NOT_FOUND: Fault = Fault::new(
    Status::NotFound,
    "no such target: there are /v1/logs, /v1/logs/{log}, /v1/logs/{log}/{seq}, /v1/region, \
     /metrics, /version, /livez, /readyz",
);
const NAME: Fault = Fault::new(
    Status::BadRequest,
    "the name of a log is 1 to 128 bytes of [A-Za-z0-9._-], and not . or ..",
);
const SEQ: Fault =
    Fault::new(Status::BadRequest, "a sequence number is a decimal number from 1 to 2^64-1");
const BEFORE: Fault = Fault::new(
    Status::BadRequest,
    "say which records to drop: DELETE /v1/logs/{log}?before=SEQ drops all below SEQ",
);
const LIMIT: Fault = Fault::new(Status::BadRequest, "`limit` is a decimal number from 1 to 1000");

/// Returns what `method` asks of `target`. HEAD asks what GET asks.
pub(super) fn route(method: &str, target: &str) -> Result<Call, Fault> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(rest) = path.strip_prefix("/v1/logs/") {
        return match rest.split_once('/') {
            None => route_log(method, rest, query),
            Some((_, seq)) if seq.contains('/') => Err(NOT_FOUND),
            Some((name, seq)) => {
                let seq = number(seq).ok_or(SEQ);
                route_readable(method, || Ok(Call::Read(log_name(name)?, seq?)))
            }
        };
    }
    let call = match path {
        "/livez" => Call::Live,
        "/readyz" => Call::Ready,
        "/v1/region" => Call::Region,
        "/metrics" => Call::Metrics,
        "/version" => Call::Version,
        "/v1/logs" => Call::List,
        "*" if method == "OPTIONS" => return Ok(Call::Options(LOG)),
        _ => return Err(NOT_FOUND),
    };
    route_readable(method, || Ok(call))
}

fn route_log(method: &str, name: &str, query: &str) -> Result<Call, Fault> {
    match method {
        "POST" => Ok(Call::Append(log_name(name)?)),
        "GET" | "HEAD" => {
            let log = log_name(name)?;
            let (from, limit) = (value(query, "from="), value(query, "limit="));
            if from.is_none() && limit.is_none() {
                return Ok(Call::Describe(log));
            }
            let from = from.map(|from| number(from).ok_or(SEQ)).transpose()?;
            let limit = limit.map(|limit| Batch::limit(number(limit)).ok_or(LIMIT)).transpose()?;
            Ok(Call::Batch(log, Batch::new(from, limit)))
        }
        "DELETE" => {
            let before = value(query, "before=").and_then(decimal).ok_or(BEFORE)?;
            Ok(Call::Trim(log_name(name)?, before))
        }
        "OPTIONS" => log_name(name).map(|_| Call::Options(LOG)),
        _ => Err(not_allowed(LOG)),
    }
}

/// Routes to a target that can be read, and nothing else.
fn route_readable(method: &str, call: impl FnOnce() -> Result<Call, Fault>) -> Result<Call, Fault> {
    match method {
        "GET" | "HEAD" => call(),
        "OPTIONS" => call().map(|_| Call::Options(READABLE)),
        _ => Err(not_allowed(READABLE)),
    }
}

const fn not_allowed(methods: &'static str) -> Fault {
    Fault::new(Status::MethodNotAllowed, "the target has no such method: see Allow")
        .with(Extra::Allow(methods))
}

fn log_name(name: &str) -> Result<LogName, Fault> {
    LogName::new(name).ok_or(NAME)
}

/// Returns what follows `key` in a query.
fn value<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key))
}

/// Splits a target in absolute form, which proxies send, into its host with the port, and its path
/// with the query. `None`: it has another form.
pub(super) fn absolute(target: &str) -> Option<(&str, &str)> {
    const SCHEME: &str = "http://";
    let (scheme, rest) = target.split_at_checked(SCHEME.len())?;
    // RFC 3986, 3.2: what a `/` behind these is part of is no path.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let is_path = path.starts_with('/');
    scheme.eq_ignore_ascii_case(SCHEME).then_some((host, if is_path { path } else { "/" }))
}

/// Returns the number from 1 on that `text` is.
fn number(text: &str) -> Option<u64> {
    decimal(text).filter(|number| *number > 0)
}

/// Returns the number that `text` is, all of it digits.
pub(super) fn decimal(text: &str) -> Option<u64> {
    // `parse` alone would accept a sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
