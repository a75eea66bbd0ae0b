//! Method and target into a call.

use super::{LogName, Status};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Append the body to a log.
    Append(LogName),
    /// Send a record.
    Read(LogName, u64),
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
}

/// Why a request is answered without being understood or carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The status of the answer.
    pub status: Status,
    /// What to do about it.
    pub text: &'static str,
    /// With 405: what the target allows.
    pub allow: Option<&'static str>,
}

impl Fault {
    pub(crate) const fn new(status: Status, text: &'static str) -> Self {
        Self { status, text, allow: None }
    }

    const fn method(allow: &'static str) -> Self {
        let text = "the target has no such method: see Allow";
        Self { status: Status::MethodNotAllowed, text, allow: Some(allow) }
    }
}

const NOT_FOUND: Fault = Fault::new(
    Status::NotFound,
    "no such target: there are /v1/logs, /v1/logs/{log}, /v1/logs/{log}/{seq}, /livez, /readyz",
);
const NAME: Fault =
    Fault::new(Status::BadRequest, "the name of a log is 1 to 128 bytes of [A-Za-z0-9._-]");
const SEQ: Fault =
    Fault::new(Status::BadRequest, "a sequence number is a decimal number from 1 to 2^64-1");
const BEFORE: Fault = Fault::new(
    Status::BadRequest,
    "say which records to drop: DELETE /v1/logs/{log}?before=SEQ drops all below SEQ",
);

const READABLE: &str = "GET, HEAD";
const LOG: &str = "GET, HEAD, POST, DELETE";

/// Returns what `method` asks of `target`. HEAD asks what GET asks.
pub(super) fn route(method: &str, target: &str) -> Result<Call, Fault> {
    let target = origin(target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let reads = matches!(method, "GET" | "HEAD");
    let readable = |call| {
        if reads { Ok(call) } else { Err(Fault::method(READABLE)) }
    };
    match path {
        "/livez" => return readable(Call::Live),
        "/readyz" => return readable(Call::Ready),
        "/v1/logs" => return readable(Call::List),
        _ => {}
    }
    let rest = path.strip_prefix("/v1/logs/").ok_or(NOT_FOUND)?;
    let Some((name, seq)) = rest.split_once('/') else {
        return route_log(method, rest, query);
    };
    if seq.contains('/') {
        return Err(NOT_FOUND);
    }
    if !reads {
        return Err(Fault::method(READABLE));
    }
    let seq = decimal(seq).filter(|seq| *seq > 0).ok_or(SEQ)?;
    Ok(Call::Read(LogName::new(name).ok_or(NAME)?, seq))
}

fn route_log(method: &str, name: &str, query: &str) -> Result<Call, Fault> {
    let log = LogName::new(name).ok_or(NAME);
    match method {
        "POST" => Ok(Call::Append(log?)),
        "GET" | "HEAD" => Ok(Call::Describe(log?)),
        "DELETE" => {
            let before = query.split('&').find_map(|pair| pair.strip_prefix("before="));
            let before = before.and_then(decimal).ok_or(BEFORE)?;
            Ok(Call::Trim(log?, before))
        }
        _ => Err(Fault::method(LOG)),
    }
}

/// Returns the path and query of a target, also of one in absolute form, which proxies send.
fn origin(target: &str) -> &str {
    const SCHEME: &str = "http://";
    match target.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            rest.find('/').map_or("/", |at| &rest[at..])
        }
        _ => target,
    }
}

/// Returns the number that `text` is, all of it digits.
pub(super) fn decimal(text: &str) -> Option<u64> {
    // `parse` alone would accept a sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
