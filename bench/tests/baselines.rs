//! Baselines as real processes: they answer as Impasto does, byte for byte, and what they have
//! answered is in their files after they were killed.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that names its seed")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use impasto::region::Checksum;
use impasto_bench::statistics::Random;

const MEMORY: [&str; 4] = ["v1", "v1b", "read-into", "zerocopy"];
const DISK: [&str; 6] = ["fdatasync", "group", "msync", "splice", "sqlite", "redb"];

/// A server, killed when this is dropped; its files are in a directory of its own.
struct Server {
    process: Child,
    address: SocketAddr,
    /// What it has said before it listened.
    said: String,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts a baseline, or Impasto if `name` is that.
    fn start(name: &str, more: &[&str]) -> Self {
        let is_on_disk = DISK.contains(&name) || more.contains(&"disk");
        let parent = if is_on_disk { env!("CARGO_TARGET_TMPDIR") } else { "/dev/shm" };
        let dir = tempfile::tempdir_in(parent).unwrap();
        let what = if name == "impasto" { vec!["serve"] } else { vec!["baseline", name] };
        let mut process = Command::new(env!("CARGO_BIN_EXE_impasto-bench"))
            .args(what)
            .args(["--size", "16MiB", "--data"])
            .arg(dir.path().join("data"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().expect("it listens").unwrap();
            if let Some(address) = line.strip_prefix("listening  http://") {
                break address.parse().unwrap();
            }
            said.push_str(&line);
        };
        Self { process, address, said, dir }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends `requests` in pieces, and returns the replies, of which there are `count`.
    fn ask(&self, requests: &[u8], count: usize, random: &mut Random) -> Vec<Vec<u8>> {
        let mut stream = self.connect();
        let mut writer = stream.try_clone().unwrap();
        let requests = requests.to_vec();
        let mut cuts = pieces(requests.len(), random);
        cuts.push(requests.len());
        thread::scope(|scope| {
            // Else both sides could wait for each other.
            scope.spawn(move || {
                let mut at = 0;
                for cut in cuts {
                    writer.write_all(&requests[at..cut]).unwrap();
                    at = cut;
                }
            });
            let mut received = Vec::new();
            (0..count).map(|_| reply(&mut stream, &mut received)).collect()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// Takes a reply from `stream`; what follows it stays in `received`.
fn reply(stream: &mut TcpStream, received: &mut Vec<u8>) -> Vec<u8> {
    loop {
        let head = received.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head {
            let text = std::str::from_utf8(&received[..head]).unwrap();
            let len = text.split_once("Content-Length: ").expect("a length").1;
            let len: usize = len.lines().next().unwrap().parse().unwrap();
            if received.len() >= head + len {
                return received.drain(..head + len).collect();
            }
        }
        let mut more = vec![0; 64 << 10];
        let read = stream.read(&mut more).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(received));
        received.extend_from_slice(&more[..read]);
    }
}

fn seed() -> u64 {
    let seed = std::env::var("IMPASTO_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("IMPASTO_SEED={seed}");
    seed
}

/// Where to cut so many bytes: at a few places, anywhere.
fn pieces(len: usize, random: &mut Random) -> Vec<usize> {
    let below = |number: u64| usize::try_from(number % len as u64).unwrap();
    let mut cuts: Vec<usize> = (0..6).map(|_| below(random.number())).collect();
    cuts.sort_unstable();
    cuts
}

/// Values of all lengths that matter: none, a line, a block, more than one receive.
fn values(random: &mut Random) -> Vec<Vec<u8>> {
    let lens =
        [0, 1, 63, 64, 100, 1024, 1024, 1024, 1024, 4000, 4096, 5000, 16 << 10, 60_000, 9, 70];
    lens.iter().map(|len| random.bytes(*len)).collect()
}

fn appends(log: &str, values: &[Vec<u8>]) -> Vec<u8> {
    let mut requests = Vec::new();
    for value in values {
        write!(
            requests,
            "POST /v1/logs/{log} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            value.len()
        )
        .unwrap();
        requests.extend_from_slice(value);
    }
    requests
}

fn reads(log: &str, count: usize) -> Vec<u8> {
    let get = |seq| format!("GET /v1/logs/{log}/{seq} HTTP/1.1\r\nHost: h\r\n\r\n");
    (1..=count).map(get).collect::<String>().into_bytes()
}

/// What a reply says that has no checksum of its value to say.
fn without_checksum(reply: &[u8]) -> Vec<u8> {
    let head = reply.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let text = std::str::from_utf8(&reply[..head]).unwrap();
    let mut reply = reply.to_vec();
    if let Some(at) = text.find("ETag: \"") {
        let dash = at + text[at..].find('-').unwrap();
        reply[dash + 1..dash + 17].fill(b'0');
    }
    reply
}

/// A baseline that answers less than Impasto does less, and would win by it.
#[test]
fn every_baseline_answers_as_impasto_does_byte_for_byte() {
    let mut random = Random::new(seed());
    let values = values(&mut random);
    let (impasto, count) = (Server::start("impasto", &[]), values.len());
    let big = [vec![5; 1 << 20], vec![6; 100], vec![7; 300_000]];
    let trim = b"DELETE /v1/logs/r?before=5 HTTP/1.1\r\nHost: h\r\n\r\n";
    let ask = |server: &Server, random: &mut Random| {
        let mut replies = server.ask(&appends("r", &values), count, random);
        replies.extend(server.ask(&reads("r", count), count, random));
        replies.extend(server.ask(&appends("big", &big), big.len(), random));
        replies.extend(server.ask(&reads("big", big.len()), big.len(), random));
        replies.extend(server.ask(trim, 1, random));
        // Appended and read in one turn: the read sees what is not yet durable.
        replies.extend(server.ask(
            &[appends("s", &values[..3]), reads("s", 3)].concat(),
            6,
            random,
        ));
        replies
    };
    let wanted = ask(&impasto, &mut random);
    let created = String::from_utf8(wanted[5].clone()).unwrap();
    assert!(created.starts_with("HTTP/1.1 201 Created\r\nLocation: /v1/logs/r/6\r\n"), "{created}");
    assert!(wanted[count + 5].ends_with(&values[5]));
    for name in MEMORY.into_iter().chain(DISK).chain(["none"]) {
        println!("{name}");
        let server = Server::start(name, &[]);
        let found = ask(&server, &mut random);
        assert_eq!(found.len(), wanted.len());
        for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let wanted = if name == "splice" { without_checksum(wanted) } else { wanted.clone() };
            let text = String::from_utf8_lossy(&found[..found.len().min(200)]);
            assert!(*found == wanted, "{name}, reply {index}: {text}");
        }
    }
}

/// What is trimmed is gone, and what never was is not found; the connection goes on.
#[test]
fn what_is_not_there_is_not_found() {
    let mut random = Random::new(seed());
    for name in MEMORY.into_iter().chain(DISK).chain(["none"]) {
        let server = Server::start(name, &[]);
        let mut requests = appends("r", &[vec![1; 10], vec![2; 10]]);
        requests.extend(b"DELETE /v1/logs/r?before=2 HTTP/1.1\r\n\r\n");
        requests.extend(reads("r", 3));
        requests.extend(reads("other", 1));
        let replies = server.ask(&requests, 7, &mut random);
        let status = |index: usize| String::from_utf8_lossy(&replies[index][9..12]).into_owned();
        let statuses: Vec<String> = (0..7).map(status).collect();
        assert_eq!(statuses, ["201", "201", "200", "404", "200", "404", "404"], "{name}");
    }
}

/// A server that has answered and not written would be the fastest of all.
#[test]
fn what_was_answered_is_in_the_file_after_sigkill() {
    let mut random = Random::new(seed());
    let mut values = values(&mut random);
    values.push(random.bytes(700_000));
    for name in MEMORY.into_iter().chain(DISK) {
        let mut server = Server::start(name, &[]);
        for _ in 0..3 {
            server.ask(&appends("r", &values), values.len(), &mut random);
        }
        server.kill();
        let found = records(name, &server.dir.path().join("data"));
        let wanted = values.iter().cycle().take(3 * values.len());
        assert_eq!(found.len(), 3 * values.len(), "{name}");
        for ((seq, found), wanted) in found.iter().zip(wanted) {
            assert!(found == wanted, "{name}, record {seq}");
        }
    }
}

/// Reads the records of the first log from the files of a baseline.
fn records(name: &str, dir: &Path) -> BTreeMap<u64, Vec<u8>> {
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    match name {
        "read-into" => walk(&read("log/region")[4096..], 64, &read("landing/region"), true),
        "fdatasync" => walk(&read("log"), 8, &[], true),
        "group" => walk(&read("region")[4096..], 4096, &[], true),
        "splice" => walk(&read("region")[4096..], 64, &[], false),
        "sqlite" => {
            let sqlite = rusqlite::Connection::open(dir.join("sqlite")).unwrap();
            let mut select = sqlite.prepare("SELECT key, checksum, value FROM records").unwrap();
            let rows = select.query_map((), |row| {
                let (key, checksum): (i64, i64) = (row.get(0)?, row.get(1)?);
                let value: Vec<u8> = row.get(2)?;
                assert_eq!(Checksum::of(&value), checksum.cast_unsigned());
                Ok((key.cast_unsigned(), value))
            });
            rows.unwrap().map(Result::unwrap).collect()
        }
        "redb" => {
            use redb::{ReadableDatabase, ReadableTable, TableDefinition};
            let database = redb::Database::open(dir.join("redb")).unwrap();
            let transaction = database.begin_read().unwrap();
            let records: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
            let table = transaction.open_table(records).unwrap();
            let row = |row: (redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>)| {
                let (head, value) = row.1.value().split_at(32);
                assert_eq!(Checksum::of(value).to_le_bytes(), head[24..]);
                (row.0.value(), value.to_vec())
            };
            // The first one is the log's name.
            table.iter().unwrap().skip(1).map(|found| row(found.unwrap())).collect()
        }
        _ => walk(&read("region")[4096..], 64, &[], true),
    }
}

/// Follows commits from the start of a log until there is none; checks all that has a checksum.
fn walk(log: &[u8], align: usize, landing: &[u8], is_summed: bool) -> BTreeMap<u64, Vec<u8>> {
    let word = |bytes: &[u8], at: usize| {
        usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
    };
    let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (mut found, mut at) = (BTreeMap::new(), 0);
    while log.get(at..at + 4) == Some(b"ICMT") {
        let header = &log[at..at + 64];
        assert_eq!(long(header, 8), at as u64, "a commit knows where it is");
        let records = &log[at + 64..at + 64 + word(header, 4)];
        let (mut sum, mut next) = (Checksum::new(), 0);
        while next < records.len() {
            let record = &records[next..next + word(records, next)];
            let kind = record[4];
            sum.update(&record[..if kind == 3 { 24 } else { 32 }]);
            if kind == 2 && word(record, 8) == 0 {
                let value = match record[6] {
                    0 => record[32..].to_vec(),
                    _ => record[32..].chunks_exact(12).fold(Vec::new(), |mut value, extent| {
                        let start = 4096 + word(extent, 0) * (256 << 10) + word(extent, 4);
                        value.extend_from_slice(&landing[start..start + word(extent, 8)]);
                        value
                    }),
                };
                assert_eq!(value.len(), word(record, 12));
                let sum = if is_summed { Checksum::of(&value) } else { 0 };
                assert_eq!(long(record, 24), sum, "record {}", long(record, 16));
                found.insert(long(record, 16), value);
            }
            next += record.len().next_multiple_of(8);
        }
        sum.update(&header[..56]);
        assert_eq!(sum.value(), long(header, 56), "the commit at {at}");
        at = (at + 64 + records.len()).next_multiple_of(align);
    }
    found
}

/// A run of minutes must not end for want of room, nor show other bytes than were appended.
#[test]
fn a_full_log_goes_on_over_its_oldest_records() {
    let mut random = Random::new(seed());
    for name in MEMORY.into_iter().chain(DISK) {
        let server = Server::start(name, &[]);
        // 20 MiB in a log of 16 MiB, in bursts that come whole, and in long values that do not.
        let value = |seq: usize| {
            let len = if seq.is_multiple_of(20) { 512 << 10 } else { 4000 };
            vec![u8::try_from(seq % 251).unwrap(); len]
        };
        for round in 0..70 {
            let values: Vec<Vec<u8>> = (10 * round..10 * round + 10).map(value).collect();
            server.ask(&appends("r", &values), 10, &mut random);
        }
        for (seq, reply) in server.ask(&reads("r", 700), 700, &mut random).iter().enumerate() {
            if reply.starts_with(b"HTTP/1.1 200") {
                assert!(reply.ends_with(&value(seq)), "{name}, record {}", seq + 1);
            } else {
                assert!(seq < 650, "{name}: record {} is one of the newest", seq + 1);
            }
        }
    }
}

/// Two workers are two servers that share a port: whichever gets a connection answers as one does.
#[test]
fn several_workers_answer_on_one_port() {
    let mut random = Random::new(seed());
    let values = values(&mut random);
    let requests = [appends("r", &values), reads("r", values.len())].concat();
    for name in ["none", "v1b"] {
        let server = Server::start(name, &["--workers", "2"]);
        let mut first = 0;
        for _ in 0..8 {
            let replies = server.ask(&requests, 2 * values.len(), &mut random);
            for (reply, value) in replies[values.len()..].iter().zip(&values) {
                assert!(reply.starts_with(b"HTTP/1.1 200 OK\r\n") && reply.ends_with(value));
            }
            first += u32::from(replies[0].windows(14).any(|line| line == b"/v1/logs/r/1\r\n"));
        }
        assert!((1..=2).contains(&first), "{name}: {first} logs were begun");
    }
}

/// Memory that is touched for the first time in a window costs as much as a request, and Impasto,
/// which takes first what was given back last, would be the only one that does not pay for it.
#[test]
fn memory_is_touched_before_anything_is_measured() {
    let mut random = Random::new(seed());
    let value = vec![1; 100_000];
    let appends = appends("r", &vec![value; 80]);
    for name in MEMORY {
        let server = Server::start(name, &[]);
        // What the process itself needs.
        server.ask(&self::appends("r", &vec![vec![2; 100_000]; 10]), 10, &mut random);
        let before = minor_faults(&server);
        server.ask(&appends, 80, &mut random);
        let pages = 80 * 100_000 / 4096;
        let faults = minor_faults(&server) - before;
        assert!(faults < pages / 4, "{name}: {faults} faults for {pages} pages");
    }
}

fn minor_faults(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.process.id())).unwrap();
    // Behind the name, which may have blanks: the state is the third field, this the tenth.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.into_iter().nth(7).unwrap().parse().unwrap()
}

/// A log that goes on behind what was trimmed leaves the caches, in which Impasto's stays.
#[test]
fn an_emptied_log_begins_where_it_began() {
    let mut random = Random::new(seed());
    for name in ["v1", "v1b", "zerocopy", "msync"] {
        let mut server = Server::start(name, &[]);
        server.ask(&appends("r", &vec![vec![1; 1000]; 20]), 20, &mut random);
        let trim = b"DELETE /v1/logs/r?before=18446744073709551615 HTTP/1.1\r\n\r\n";
        let last = [&trim[..], &appends("r", &[vec![7; 999]]), &reads("r", 21)[..]].concat();
        let replies = server.ask(&last, 23, &mut random);
        assert!(replies[22].ends_with(&[7; 999]), "{name}");
        server.kill();
        let region = fs::read(server.dir.path().join("data/region")).unwrap();
        let at = region.windows(999).position(|bytes| bytes == [7; 999]).unwrap();
        assert!(at < 4096 + 1000, "{name}: at {at}");
    }
}

/// Whoever breaks off in the middle of a body would take all others with him.
#[test]
fn a_client_that_breaks_off_ends_no_server() {
    let mut random = Random::new(seed());
    for name in MEMORY.into_iter().chain(DISK).chain(["none"]) {
        let server = Server::start(name, &[]);
        for sent in [40, 200_000] {
            let mut stream = server.connect();
            let request = &appends("r", &[vec![1; 400_000]])[..sent];
            stream.write_all(request).unwrap();
            // Behind what was sent comes a reset, not an end.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let replies = server.ask(&appends("s", &[vec![1; 10]]), 1, &mut random);
        assert!(replies[0].starts_with(b"HTTP/1.1 201 "), "{name}");
    }
}

fn run(args: &[&str]) -> Output {
    let bench = env!("CARGO_BIN_EXE_impasto-bench");
    Command::new(bench).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn an_unknown_name_is_answered_with_those_that_there_are() {
    let output = run(&["baseline", "v8", "--data", "none", "--size", "16MiB"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    for name in MEMORY.into_iter().chain(DISK).chain(["none", "kcm"]) {
        assert!(text.contains(name), "{name}: {text}");
    }
}

/// What this machine cannot run is said in a line, not left out of a table.
#[test]
fn what_cannot_be_had_says_why() {
    let output = run(&["baseline", "kcm", "--data", "none", "--size", "16MiB"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("impasto-bench: kcm: ") && text.lines().count() == 1, "{text}");
}

/// Nothing is made before it is known that it can be served; what is made is in one place.
#[test]
fn a_port_in_use_is_said_plainly_and_nothing_is_left_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    for name in MEMORY.into_iter().chain(DISK).chain(["none"]) {
        let args = ["baseline", name, "--size", "16MiB", "--data", data, "--http", &address];
        let output = run(&args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.contains(&format!("cannot listen on {address}: ")), "{name}: {text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A delay that is not applied would show a variant faster than it is.
#[test]
fn a_delay_for_fences_is_refused_where_there_are_none() {
    let disk = ["serve", "--medium", "disk", "--data", "none", "--size", "16MiB"];
    let output = run(&[&disk[..], &["--without-flush"]].concat());
    assert!(String::from_utf8(output.stderr).unwrap().contains("a disk has no fences"));
    for name in DISK.into_iter().chain(["none"]) {
        let args = ["--data", "none", "--size", "16MiB", "--fence-delay", "10"];
        let output = run(&[&["baseline", name][..], &args].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("has no fences to delay"), "{name}: {text}");
    }
}

/// What is compared must be the same server, however it is put together.
#[test]
fn impasto_answers_the_same_from_whichever_parts() {
    let mut random = Random::new(seed());
    let values = values(&mut random);
    let requests = [appends("r", &values), reads("r", values.len())].concat();
    let wanted = Server::start("impasto", &[]).ask(&requests, 2 * values.len(), &mut random);
    for more in [
        &["--without-flush"][..],
        &["--fence-delay", "10000", "--io", "epoll", "--workers", "2"],
        &["--busy-poll", "--stages"],
        &["--medium", "disk", "--workers", "2", "--stages"],
        &["--medium", "disk", "--io", "epoll"],
    ] {
        let server = Server::start("impasto", more);
        // Twice: the second connection goes to the second worker, if there is one.
        let first = server.ask(&requests, 2 * values.len(), &mut random);
        assert!(first == wanted, "{more:?}");
        let reads = reads("r", values.len());
        let second = server.ask(&reads, values.len(), &mut random);
        assert!(second == wanted[values.len()..], "{more:?}");
    }
}

/// As for baselines, from the seams that there are.
#[test]
fn impasto_says_where_its_time_goes() {
    let mut random = Random::new(seed());
    for (more, stages) in [
        (&["--fence-delay", "1000"][..], &["receive", "parse", "flush", "fence or sync"][..]),
        (&["--without-flush", "--io", "epoll"], &["receive", "parse", "reply"]),
        (&["--medium", "disk"], &["receive", "parse", "fence or sync", "reply"]),
    ] {
        let server = Server::start("impasto", &[&["--stages"], more].concat());
        server.ask(&appends("r", &[vec![1; 1000], vec![2; 100]]), 2, &mut random);
        let told = told(&server);
        assert_eq!(told["requests"], 2, "{more:?}: {told}");
        for stage in stages {
            assert!(told["ns"][stage].as_u64().unwrap() > 0, "{stage}, {more:?}: {told}");
        }
        let flushed = told["ns"]["flush"].as_u64().unwrap() > 0;
        assert_eq!(flushed, more[0] == "--fence-delay", "{more:?}: {told}");
    }
}

/// Returns what a server says of its stages.
fn told(server: &Server) -> serde_json::Value {
    let stages = server.said.strip_prefix("stages  http://").expect("it says where");
    let mut stream = TcpStream::connect(stages).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let told = reply(&mut stream, &mut Vec::new());
    let json = told.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    serde_json::from_slice(&told[json..]).unwrap()
}

/// The breakdown is of what a server really charges: all requests, and each stage that it has.
#[test]
fn every_baseline_says_where_its_time_goes() {
    let mut random = Random::new(seed());
    for name in MEMORY.into_iter().chain(DISK).chain(["none"]) {
        let mut more = vec!["--stages"];
        if MEMORY.contains(&name) {
            more.extend(["--fence-delay", "1000000"]);
        }
        let server = Server::start(name, &more);
        server.ask(&appends("r", &[vec![1; 100], vec![2; 100]]), 2, &mut random);
        let told = told(&server);
        let ns = |stage: &str| told["ns"][stage].as_u64().expect("each stage is told");
        assert_eq!(told["requests"], 2, "{name}: {told}");
        assert!(ns("receive") > 0 && ns("parse") > 0 && ns("copy") > 0, "{name}: {told}");
        assert_eq!(ns("fence or sync") > 0, name != "none", "{name}: {told}");
        assert!(ns("fence or sync") >= 1_000_000 || !MEMORY.contains(&name), "{name}: {told}");
    }
}
