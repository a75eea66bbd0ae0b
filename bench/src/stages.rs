//! Where the time of a server goes, stage by stage, told by the server itself.
//!
//! A server that is started with `--stages` says `stages  http://ADDR` before it says where it
//! listens, and answers any request there with
//! `{"requests":n,"ns":{"wait":..,"receive":..,..}}`, by the names of [`Stage::name`].

use std::{
    cell::RefCell,
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::cli::tell;

/// What a server does with a request, in the order of the talk's figure (Honda et al., netdev 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for packets.
    Wait,
    /// Takes bytes from the kernel: the kernel's copy is in it.
    Receive,
    /// Parses requests.
    Parse,
    /// Makes the record: copies the payload, if it is copied, and checksums it.
    Copy,
    /// Starts to write back.
    Flush,
    /// Waits until that is durable: a fence, or a sync of a file.
    Fence,
    /// Sends replies: the kernel's TCP is in it.
    Reply,
}

impl Stage {
    pub(crate) const ALL: [Self; 7] =
        [Self::Wait, Self::Receive, Self::Parse, Self::Copy, Self::Flush, Self::Fence, Self::Reply];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Receive => "receive",
            Self::Parse => "parse",
            Self::Copy => "copy",
            Self::Flush => "flush",
            Self::Fence => "fence or sync",
            Self::Reply => "reply",
        }
    }
}

/// Time by stage. Without an account (the default) it costs a branch.
#[derive(Debug, Default)]
pub(crate) struct Stages(Option<Running>);

struct Running {
    since: Instant,
    account: Arc<Account>,
}

/// What was charged, to be read by another thread.
#[derive(Debug, Default)]
pub(crate) struct Account {
    ns: [AtomicU64; Stage::ALL.len()],
    requests: AtomicU64,
}

impl From<Option<Arc<Account>>> for Stages {
    fn from(account: Option<Arc<Account>>) -> Self {
        account.map_or_else(Self::default, Self::to)
    }
}

impl Stages {
    /// Charges to `account`, from now on.
    pub(crate) fn to(account: Arc<Account>) -> Self {
        Self(Some(Running { since: Instant::now(), account }))
    }

    /// Charges the time since the last call to `stage`.
    #[inline]
    pub(crate) fn charge(&mut self, stage: Stage) {
        if let Some(Running { since, account }) = &mut self.0 {
            let now = Instant::now();
            let ns = u64::try_from((now - *since).as_nanos()).unwrap_or(u64::MAX);
            // Relaxed, here and below: sums that nobody orders anything by.
            account.ns[stage as usize].fetch_add(ns, Ordering::Relaxed);
            *since = now;
        }
    }

    /// Counts requests that were answered.
    #[inline]
    pub(crate) fn answered(&mut self, requests: u64) {
        if let Some(Running { account, .. }) = &mut self.0 {
            account.requests.fetch_add(requests, Ordering::Relaxed);
        }
    }
}

impl Account {
    /// Returns the requests that were answered, and the nanoseconds of each stage, of all of them.
    pub(crate) fn read(&self) -> (u64, [u64; Stage::ALL.len()]) {
        let ns = std::array::from_fn(|stage| self.ns[stage].load(Ordering::Relaxed));
        (self.requests.load(Ordering::Relaxed), ns)
    }

    fn to_json(&self) -> serde_json::Value {
        let (requests, ns) = self.read();
        let ns: serde_json::Map<_, _> = Stage::ALL
            .map(|stage| (stage.name().into(), ns[stage as usize].into()))
            .into_iter()
            .collect();
        serde_json::json!({ "requests": requests, "ns": ns })
    }
}

/// Opens an account and says on stdout where it can be read, if it is `wanted`.
pub(crate) fn open(wanted: bool, beside: SocketAddr) -> io::Result<Option<Arc<Account>>> {
    if !wanted {
        return Ok(None);
    }
    let listener = TcpListener::bind((beside.ip(), 0))?;
    tell(&format!("stages  http://{}", listener.local_addr()?));
    let account = Arc::new(Account::default());
    serve(Arc::clone(&account), listener);
    Ok(Some(account))
}

thread_local! {
    /// For code that reaches the same thread at several places, none of which has the others.
    static CURRENT: RefCell<Stages> = RefCell::default();
}

/// Lets [`charge`] charge to `account`, on this thread.
pub(crate) fn charge_to(account: Option<Arc<Account>>) {
    CURRENT.set(account.into());
}

/// As [`Stages::charge`], for this thread.
#[inline]
pub(crate) fn charge(stage: Stage) {
    CURRENT.with_borrow_mut(|stages| stages.charge(stage));
}

/// As [`Stages::answered`], for this thread.
#[inline]
pub(crate) fn answered(requests: u64) {
    CURRENT.with_borrow_mut(|stages| stages.answered(requests));
}

/// What a server has charged its time to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charged {
    requests: u64,
    ns: [u64; Stage::ALL.len()],
}

impl Charged {
    /// Returns true if it has only waited since `before`.
    pub(crate) fn is_idle_since(&self, before: &Self) -> bool {
        let besides = Stage::Wait as usize + 1;
        self.ns[besides..] == before.ns[besides..]
    }

    /// Returns the microseconds of each stage for a request since `before`; NaN without one.
    pub(crate) fn us_since(&self, before: &Self) -> [f64; Stage::ALL.len()] {
        let requests = self.requests.saturating_sub(before.requests) as f64;
        Stage::ALL.map(|stage| {
            let ns = self.ns[stage as usize].saturating_sub(before.ns[stage as usize]);
            ns as f64 / 1000.0 / requests
        })
    }
}

/// Asks a server what it has charged its time to.
pub(crate) fn ask(address: SocketAddr) -> io::Result<Charged> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let told: serde_json::Value = serde_json::from_str(body)?;
    let number = |value: &serde_json::Value| {
        value.as_u64().ok_or_else(|| io::Error::other("the server does not say its stages"))
    };
    let mut ns = [0; Stage::ALL.len()];
    for stage in Stage::ALL {
        ns[stage as usize] = number(&told["ns"][stage.name()])?;
    }
    Ok(Charged { requests: number(&told["requests"])?, ns })
}

/// Shows `account` to whoever asks, on a thread of its own.
pub(crate) fn serve(account: Arc<Account>, listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who has gone does not want to know.
            let _gone = show(&account, stream);
        }
    });
}

/// Answers the one request of a connection.
fn show(account: &Account, mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; 4096];
    let mut len = 0;
    while !request[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[len..])? {
            0 => return Ok(()),
            read => len += read,
        }
    }
    let json = account.to_json().to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{json}", json.len())
}

/// For the head of a request.
const PATIENCE: Duration = Duration::from_secs(1);

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server charges would be lost if it were not told in the form that is read.
    #[test]
    fn an_account_is_told_to_whoever_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let account = Arc::new(Account::default());
        let mut stages = Stages::from(Some(Arc::clone(&account)));
        stages.charge(Stage::Fence);
        stages.answered(3);
        serve(Arc::clone(&account), listener);
        let charged = ask(address).unwrap();
        let before = Charged { requests: 1, ns: [0; Stage::ALL.len()] };
        let us = charged.us_since(&before);
        assert!(us[Stage::Fence as usize] > 0.0 && us[Stage::Copy as usize] == 0.0, "{us:?}");
        assert!(charged.is_idle_since(&charged) && !charged.is_idle_since(&before));
        // One that says nothing must not keep others from asking for long.
        let _mute = TcpStream::connect(address).unwrap();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            let (_, body) = reply.split_once("\r\n\r\n").expect("a head ends");
            let told: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(told["requests"], 3, "{reply}");
            assert_eq!(told["ns"]["wait"], 0, "{reply}");
            assert!(told["ns"]["fence or sync"].as_u64().unwrap() > 0, "{reply}");
        }
    }

    #[test]
    fn nothing_is_charged_without_an_account() {
        let mut stages = Stages::default();
        stages.charge(Stage::Copy);
        stages.answered(1);
        assert!(stages.0.is_none());
        assert!(open(false, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().is_none());
    }
}
