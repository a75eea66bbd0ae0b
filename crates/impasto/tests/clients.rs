//! The server as its users meet it: curl, Python, wrk, Node, a browser. Each is skipped, aloud, if
//! it is not there.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use common::{Server, place, skipped};
use tempfile::TempDir;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
const HTTP_MD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http.md");

/// Runs a program to its end, which has to be a success; `None` if it is not there.
fn run(program: &str, args: &[&str], input: &[u8]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.args(["60", program]).args(args);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Err(error) = Command::new(program).arg("--version").stdout(Stdio::null()).status() {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{program}: {error}");
        skipped(&format!("no {program}"));
        return None;
    }
    let mut process = command.spawn().unwrap();
    // A client may be refused before it has taken all.
    let _taken = process.stdin.take().unwrap().write_all(input);
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{said}\n{error}", output.status);
    Some(said)
}

fn serve(more: &[&str]) -> (Server, TempDir) {
    let dir = place();
    let server = Server::start(dir.path(), &[&["--size", "64MiB"], more].concat());
    (server, dir)
}

fn address(server: &Server) -> String {
    server.banner.last().unwrap().split("http://").nth(1).unwrap().to_owned()
}

/// Returns the status that curl gets, and what it says before.
fn curl(server: &Server, target: &str, args: &[&str], input: &[u8]) -> Option<(String, String)> {
    let url = format!("http://{}{target}", address(server));
    let always = ["-sS", "-w", "\n%{http_code}", &url];
    let said = run("curl", &[&always, args].concat(), input)?;
    let (body, status) = said.rsplit_once('\n').unwrap();
    Some((status.to_owned(), body.to_owned()))
}

#[test]
fn curl_finds_all_of_http() {
    let (server, dir) = serve(&[]);
    let log = "/v1/logs/curl";
    let ask = |target: &str, args: &[&str], input: &str| {
        curl(&server, target, args, input.as_bytes()).unwrap_or_default()
    };
    if ask("/livez", &[], "").0.is_empty() {
        return;
    }
    let is = |(status, body): (String, String), expected: &str, part: &str| {
        assert!(status == expected && body.contains(part), "{status} {body:?}, not {part:?}");
    };
    let digest = "Content-Digest: sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    is(ask(log, &["-i", "-d", "hello"], ""), "201", "Location: /v1/logs/curl/1");
    is(ask(log, &["-H", digest, "-d", "hello"], ""), "201", "");
    is(ask(log, &["-H", digest, "-d", "hellO"], ""), "400", "/problems/digest");
    is(ask(log, &["-0", "-i", "-d", "old"], ""), "201", "/3");
    let chunked = "Transfer-Encoding: chunked";
    is(ask(log, &["-H", chunked, "--data-binary", "@-"], &"c".repeat(200_000)), "201", "");
    let expect = ["-H", "Expect: 100-continue", "--data-binary", "@-"];
    is(ask(log, &expect, &"e".repeat(2_000_000)), "201", "");
    is(ask(log, &["-H", "Expect: 200-ok", "-d", "x"], ""), "417", "100-continue");

    let first = format!("{log}/1");
    is(ask(&first, &[], ""), "200", "hello");
    is(ask(&first, &["-0"], ""), "200", "hello");
    is(ask(&first, &["-0", "-H", "Connection: keep-alive", "-i"], ""), "200", "keep-alive");
    is(ask(&first, &["-I"], ""), "200", "Accept-Ranges: bytes");
    assert_eq!(ask(&first, &["-r", "1-2"], ""), ("206".into(), "el".into()));
    assert_eq!(ask(&first, &["-r", "-2"], ""), ("206".into(), "lo".into()));
    is(ask(&first, &["-r", "5-"], ""), "416", "\"bytes\":5");
    assert_eq!(ask(&format!("{log}/4"), &["-r", "199999-"], "").1, "c");
    // What was cut off is continued.
    let file = dir.path().join("part");
    fs::write(&file, "he").unwrap();
    is(ask(&first, &["-C", "-", "-o", file.to_str().unwrap()], ""), "206", "");
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    let tag = dir.path().join("tag");
    let tag = tag.to_str().unwrap();
    is(ask(&first, &["--etag-save", tag], ""), "200", "");
    is(ask(&first, &["--etag-compare", tag], ""), "304", "");
    is(ask(&format!("{log}/2"), &["--etag-compare", tag], ""), "200", "hello");

    let lines = ask(&format!("{log}?from=1&limit=3"), &["-H", "Accept: application/jsonl"], "");
    is(lines, "200", "{\"seq\":3,\"bytes\":3,\"text\":\"old\"}");
    is(ask(&format!("{log}?from=9"), &[], ""), "404", "\"next\":6");
    is(ask(log, &["-X", "OPTIONS", "-i"], ""), "204", "Allow: GET");
    is(ask(log, &["-T", "/dev/null"], ""), "405", "see Allow");
    is(ask(log, &["-H", "Origin: http://example.org", "-d", "x"], ""), "403", "/problems/origin");
    is(ask(&format!("{log}?before=6"), &["-X", "DELETE"], ""), "200", "\"records\":0");
    is(ask(&first, &[], ""), "410", "\"first\":6");
    // Three requests, one connection.
    let url = format!("http://{}/livez", address(&server));
    let args = ["-sS", "-w", "%{num_connects}", &url, &url, &url];
    assert_eq!(run("curl", &args, b"").unwrap(), "ok\n1ok\n0ok\n0");
}

#[test]
fn python_keeps_its_connection_and_reads_batches() {
    let (server, _dir) = serve(&[]);
    run("python3", &[&format!("{SCRIPTS}/client.py"), &address(&server), HTTP_MD], b"");
}

#[test]
fn node_fetches_and_streams() {
    let (server, _dir) = serve(&[]);
    run("node", &[&format!("{SCRIPTS}/client.mjs"), &address(&server)], b"");
}

/// Many connections for a while: no answer but the one that is expected.
#[test]
fn wrk_sees_no_error() {
    let (server, dir) = serve(&[]);
    server.append("hello");
    let script = dir.path().join("post.lua");
    let lua = "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 100)\n";
    fs::write(&script, lua).unwrap();
    let url = |target: &str| format!("http://{}{target}", address(&server));
    let (read, append) = (url("/v1/logs/a/1"), url("/v1/logs/wrk"));
    let batch = url("/v1/logs/wrk?from=1&limit=20");
    let script = script.to_str().unwrap();
    for args in [&[&*append, "-s", script][..], &[&read], &[&batch]] {
        // wrk has no --version that succeeds.
        let Ok(output) = Command::new("wrk").args(["-t1", "-c16", "-d1s"]).args(args).output()
        else {
            return skipped("no wrk");
        };
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains("Requests/sec"), "{said}");
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    }
}

/// A page that stands elsewhere and asks the server for this and that.
struct Page {
    origin: String,
}

impl Page {
    fn publish() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let page = fs::read_to_string(format!("{SCRIPTS}/page.html")).unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        // The thread ends with the process.
        thread::spawn(move || {
            for mut stream in listener.incoming().map(Result::unwrap) {
                let _head = stream.read(&mut [0; 4096]);
                let len = page.len();
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
                let _gone = write!(stream, "{head}\r\nContent-Length: {len}\r\n\r\n{page}");
            }
        });
        Self { origin }
    }

    /// Returns what it shows in a browser.
    fn shown(&self, server: &Server, dir: &Path) -> Option<String> {
        let url = format!("{}/#{}", self.origin, address(server));
        let profile = format!("--user-data-dir={}", dir.join("profile").display());
        let options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let more = ["--virtual-time-budget=10000", "--dump-dom", &profile, &url];
        let shown = run("chromium", &[&options[..], &more].concat(), b"")?;
        let said = shown.split("id=\"said\">").nth(1).unwrap();
        Some(said.split("</p>").next().unwrap().to_owned())
    }
}

/// The browser hides the answer from the page, but sends what the page wants: the server refuses.
#[test]
fn a_page_in_a_browser_appends_only_if_it_is_allowed() {
    let page = Page::publish();
    let (server, dir) = serve(&[]);
    let Some(said) = page.shown(&server, dir.path()) else { return };
    assert_eq!(said, "TypeError: Failed to fetch");
    let logs = server.ask("GET /v1/logs HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(logs.ends_with("\r\n\r\n[]\n"), "{logs}");

    let (server, dir) = serve(&["--allow-origin", &page.origin]);
    let said = page.shown(&server, dir.path()).unwrap();
    assert_eq!(said, "201 201 /v1/logs/page/2 asked 20");
}
