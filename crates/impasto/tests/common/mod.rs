//! A running `impasto`, as its user meets it: a process, files, connections.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod client;
pub(crate) mod region;

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use client::Client;
use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

/// A directory on the disk that holds the build; /tmp is often in memory.
pub(crate) fn place() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Each medium that can be had here, with a directory for it.
pub(crate) fn media() -> Vec<(&'static str, TempDir)> {
    let mut media = vec![("disk", place())];
    match tempfile::tempdir_in("/dev/shm") {
        Ok(dir) => media.push(("shm", dir)),
        Err(error) => skipped(&format!("no /dev/shm: {error}")),
    }
    media
}

/// Says that something cannot be tested here: CI counts that as a failure.
#[expect(clippy::print_stderr, reason = "to be seen")]
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

pub(crate) fn impasto(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// With `IMPASTO_IO`, every server that a test does not start otherwise waits on that.
pub(crate) fn serve(dir: &Path, more: &[&str]) -> Command {
    let mut command = impasto(&["serve", "--data"]);
    command.arg(dir).args(more);
    if let Some(io) = env::var_os("IMPASTO_IO").filter(|_| !more.contains(&"--io")) {
        command.arg("--io").arg(io);
    }
    if !more.contains(&"--http") {
        command.args(["--http", "127.0.0.1:0"]);
    }
    command
}

pub(crate) fn verify(dir: &Path) -> Output {
    impasto(&["verify", dir.to_str().unwrap()]).output().unwrap()
}

/// A running `impasto serve`; killed when it is dropped.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) banner: Vec<String>,
}

impl Server {
    pub(crate) fn start(dir: &Path, more: &[&str]) -> Self {
        Self::spawn(serve(dir, more))
    }

    /// Runs a command that becomes a server.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut banner = Vec::new();
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            banner.push(line.unwrap());
            if banner.last().unwrap().starts_with("listening") {
                return Self { process, banner };
            }
        }
        let output = process.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        panic!("the server ended: {text}");
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.banner.iter().any(|line| line.contains(text))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.connect())
    }

    /// Returns the bytes of memory that the server takes now.
    pub(crate) fn memory(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// Returns the time that the server has spent on CPUs.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        // Behind the name, which may contain anything: the state, and utime and stime 11 further.
        let fields = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / clock_ticks_per_second())
    }

    /// Returns how many descriptors the server has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    fn address(&self) -> &str {
        self.banner.last().unwrap().split("http://").nth(1).unwrap()
    }

    /// Sends `request` on a connection of its own, and returns all that comes back.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    pub(crate) fn append(&self, value: &str) {
        let len = value.len();
        let reply = self.ask(&format!(
            "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
             Content-Length: {len}\r\n\r\n{value}"
        ));
        assert!(reply.starts_with("HTTP/1.1 201"), "{reply}");
    }

    pub(crate) fn read(&self, seq: u64) -> String {
        self.ask(&format!("GET /v1/logs/a/{seq} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
    }

    /// Returns a connection, or `None` if the server is dead.
    pub(crate) fn try_connect(&self) -> Option<TcpStream> {
        TcpStream::connect(self.address()).ok()
    }

    pub(crate) fn send_kill(&self) {
        kill_process(Pid::from_child(&self.process), Signal::KILL).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    pub(crate) fn stop(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap();
        self.process.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}
