//! A small load: mixed requests on many connections, every reply checked.
//!
//! ```text
//! cargo run --release -- serve --size 256MiB &
//! cargo run --release --example load -- --connections 32 --requests 1000000
//! ```
//!
//! It makes the server work, and counts; it is no benchmark: client and server share the machine.
//! Of eight requests five append (100 B to 8 KiB), two read what was appended, and one describes
//! the log; every 1,000th trims it.

use std::{
    error::Error,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
    time::Instant,
};

use clap::Parser;

#[derive(Clone, Debug, Parser)]
struct Args {
    /// The server
    #[arg(long, default_value = "127.0.0.1:8080")]
    target: String,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 32)]
    connections: u64,
    /// Requests in all
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
}

/// One connection and its log.
struct Client {
    reader: BufReader<TcpStream>,
    log: String,
    /// Head and body of the request, then the body of the reply.
    bytes: Vec<u8>,
    first: u64,
    next: u64,
}

impl Client {
    fn connect(target: &str, log: String) -> io::Result<Self> {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        let reader = BufReader::with_capacity(64 << 10, stream);
        let mut client = Self { reader, log, bytes: Vec::new(), first: 1, next: 1 };
        // The log may be there from another run: it goes on.
        client.request("GET", "", &[])?;
        if client.reply()? == 200 {
            let text = String::from_utf8_lossy(&client.bytes).into_owned();
            let number =
                |name: &str| text.split(name).nth(1)?.split([',', '}']).next()?.parse().ok();
            client.next = number("\"next\":").unwrap_or(1);
            client.first = client.next;
        }
        Ok(client)
    }

    /// The `n`-th request of this connection.
    fn step(&mut self, n: u64) -> io::Result<()> {
        if n % 1000 == 999 {
            let before = self.next;
            self.expect("DELETE", &format!("?before={before}"), &[], 200)?;
            self.first = before;
        } else if n % 8 < 5 || self.first == self.next {
            self.expect("POST", "", &value(self.next), 201)?;
            self.next += 1;
        } else if n % 8 < 7 {
            let seq = self.first + n.wrapping_mul(0x9e37_79b9) % (self.next - self.first);
            self.expect("GET", &format!("/{seq}"), &[], 200)?;
            if self.bytes != value(seq) {
                return Err(io::Error::other(format!("{}/{seq} has other bytes", self.log)));
            }
        } else {
            self.expect("GET", "", &[], 200)?;
        }
        Ok(())
    }

    fn expect(&mut self, method: &str, target: &str, body: &[u8], status: u16) -> io::Result<()> {
        self.request(method, target, body)?;
        match self.reply()? {
            found if found == status => Ok(()),
            found => Err(io::Error::other(format!(
                "{method} {}{target} was answered {found}: {}",
                self.log,
                String::from_utf8_lossy(&self.bytes)
            ))),
        }
    }

    fn request(&mut self, method: &str, target: &str, body: &[u8]) -> io::Result<()> {
        self.bytes.clear();
        let (log, len) = (&self.log, body.len());
        write!(
            self.bytes,
            "{method} /v1/logs/{log}{target} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n"
        )?;
        self.bytes.extend_from_slice(body);
        self.reader.get_mut().write_all(&self.bytes)
    }

    /// Returns the status, and leaves the body in `bytes`.
    fn reply(&mut self) -> io::Result<u16> {
        let (mut status, mut len) = (0, 0);
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("Content-Length: ") {
                len = rest.parse().map_err(io::Error::other)?;
            } else if line.is_empty() {
                break;
            }
        }
        self.bytes.resize(len, 0);
        self.reader.read_exact(&mut self.bytes)?;
        Ok(status)
    }
}

/// The value of record `seq` of any log.
fn value(seq: u64) -> Vec<u8> {
    let mixed = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let len = if mixed.is_multiple_of(10) { 8192 } else { 100 + mixed % 1400 };
    let bytes = mixed.to_le_bytes();
    (0..len).map(|index| bytes[usize::try_from(index % 7).unwrap_or(0)] ^ bytes[7]).collect()
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args = Args::parse();
    let start = Instant::now();
    thread::scope(|scope| {
        let run = |connection: u64| {
            let args = &args;
            scope.spawn(move || -> io::Result<()> {
                let log = format!("load-{connection}");
                let mut client = Client::connect(&args.target, log)?;
                (0..args.requests / args.connections).try_for_each(|n| client.step(n))
            })
        };
        let clients: Vec<_> = (0..args.connections).map(run).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client returns"))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let requests = args.requests / args.connections * args.connections;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = requests as f64 / seconds;
    writeln!(
        io::stdout(),
        "{requests} requests in {seconds:.1} s, {rate:.0} per second, all as expected"
    )?;
    Ok(())
}
