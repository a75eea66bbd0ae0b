//! `impasto-bench peers` with peers that misbehave. None has to be installed: in their places stand
//! scripts, which start this program again, as [`a_peer_that_the_others_start`].

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// What is started instead of Redis, if the environment says so; else nothing happens here.
#[test]
fn a_peer_that_the_others_start() {
    let Ok(behaviour) = env::var("PRETEND") else { return };
    let args: Vec<String> = env::var("PRETEND_ARGS").unwrap().split(' ').map(Into::into).collect();
    let after = |name: &str| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).cloned().unwrap_or_default()
    };
    let mut settings: BTreeMap<String, String> = ["dir", "appendonly", "appendfsync", "save"]
        .into_iter()
        .map(|name| (name.to_owned(), after(&format!("--{name}"))))
        .collect();
    if behaviour == "lies" {
        settings.insert("appendfsync".into(), "everysec".into());
    }
    // In sessions of their own, and one whose parent ends at once.
    let marker = env::var("PRETEND_MARKER").unwrap();
    let forks = format!("setsid sleep {marker} & (setsid sleep {marker} &) ; sleep {marker}");
    let mut shell = Command::new("sh").args(["-c", &forks]).spawn().unwrap();
    thread::spawn(move || shell.wait());
    if behaviour == "deaf" {
        thread::sleep(FOR_EVER);
    }
    if behaviour == "answers-http" {
        return serve_http();
    }
    let listener = TcpListener::bind(("127.0.0.1", after("--port").parse().unwrap())).unwrap();
    let writes_left = AtomicU64::new(if behaviour == "dies" { 100 } else { u64::MAX });
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let (settings, writes_left) = (&settings, &writes_left);
            let stalls = behaviour == "stalls";
            scope.spawn(move || answer(&stream.unwrap(), settings, writes_left, stalls));
        }
    });
}

/// Answers as Impasto does, to POST and DELETE.
fn serve_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    io::stdout().write_all(format!("\nlistening  http://{address}\n").as_bytes()).unwrap();
    for stream in listener.incoming() {
        thread::spawn(move || {
            let stream = stream.unwrap();
            let (mut reader, mut writer) = (BufReader::new(&stream), &stream);
            let (mut line, mut is_post, mut body_bytes) = (String::new(), false, 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                is_post |= line.starts_with("POST ");
                if let Some(length) = line.to_lowercase().strip_prefix("content-length: ") {
                    body_bytes = length.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    reader.read_exact(&mut vec![0; body_bytes]).unwrap();
                    let status = if is_post { "201 Created" } else { "200 OK" };
                    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                    if writer.write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                    (is_post, body_bytes) = (false, 0);
                }
                line.clear();
            }
        });
    }
}

/// Answers as Redis does, up to a point.
fn answer(
    stream: &TcpStream,
    settings: &BTreeMap<String, String>,
    writes_left: &AtomicU64,
    stalls: bool,
) {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    while let Ok(Some(words)) = next_command(&mut reader) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reply = match words.as_slice() {
            ["PING"] => "+PONG\r\n".to_owned(),
            ["CONFIG", "GET", name] => {
                let value = settings.get(*name).cloned().unwrap_or_default();
                format!("*2\r\n${}\r\n{name}\r\n${}\r\n{value}\r\n", name.len(), value.len())
            }
            ["SET", ..] if stalls => {
                fs::write(Path::new(&settings["dir"]).join("written"), "").unwrap();
                thread::sleep(FOR_EVER);
                return;
            }
            ["SET", ..] => {
                if writes_left.fetch_sub(1, Ordering::Relaxed) == 0 {
                    io::stderr().write_all(b"my disk has gone\n").unwrap();
                    std::process::exit(3);
                }
                "+OK\r\n".to_owned()
            }
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        if writer.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads a line of words, or an array of strings.
fn next_command(reader: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let Some(count) = line.strip_prefix('*') else {
        return Ok(Some(line.split_whitespace().map(str::to_owned).collect()));
    };
    let mut words = Vec::new();
    for _ in 0..count.trim_end().parse().unwrap_or(0) {
        let mut length = String::new();
        reader.read_line(&mut length)?;
        let mut bytes =
            vec![0; length.trim_start_matches('$').trim_end().parse::<usize>().unwrap()];
        reader.read_exact(&mut bytes)?;
        reader.read_exact(&mut [0; 2])?;
        words.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(Some(words))
}

/// A place in which `impasto-bench peers` finds what it is meant to.
struct Scene {
    /// The only directory of PATH, and the place for all that is made.
    bin: TempDir,
    disk: TempDir,
    memory: TempDir,
    /// An argument of every process that a pretended peer has forked.
    marker: String,
}

impl Scene {
    /// Returns one in which `peers`, by the name of the program, behave.
    fn new(peers: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = |within: &str| tempfile::tempdir_in(within).unwrap();
        let scene = Self {
            bin: tempfile::tempdir().unwrap(),
            disk: dir(env!("CARGO_TARGET_TMPDIR")),
            memory: dir("/dev/shm"),
            marker: format!("864000{count}.{}", std::process::id()),
        };
        peers.iter().for_each(|(program, behaviour)| scene.script(program, behaviour));
        scene
    }

    /// Makes a program that starts this one.
    fn script(&self, program: &str, behaviour: &str) {
        let text = format!(
            "#!/bin/sh\n\
             if [ \"$1\" = --version ]; then echo 'server v=9.8.7'; exit; fi\n\
             if [ {behaviour} = refuses ]; then echo 'no such setting' >&2; exit 4; fi\n\
             PATH={} PRETEND={behaviour} PRETEND_MARKER={} PRETEND_ARGS=\"$*\" exec {} \
             --exact a_peer_that_the_others_start --nocapture\n",
            env::var("PATH").unwrap(),
            self.marker,
            env::current_exe().unwrap().display(),
        );
        let path = self.bin.path().join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto-bench"));
        self.arguments(&mut command);
        command.args(args);
        command
    }

    /// Copies the program to where something stands that it takes for Impasto.
    fn beside_an_impasto(&self) -> PathBuf {
        let bench = self.bin.path().join("impasto-bench");
        fs::copy(env!("CARGO_BIN_EXE_impasto-bench"), &bench).unwrap();
        self.script("impasto", "answers-http");
        bench
    }

    fn arguments(&self, command: &mut Command) {
        // Whoever runs it through Cargo has the server built; here something stands in its place.
        command.arg("peers").env("PATH", self.bin.path()).env_remove("CARGO");
        command.arg("--disk-dir").arg(self.disk.path());
        command.arg("--memory-dir").arg(self.memory.path());
        command.args(["--server-core", "0", "--client-core", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    fn run(&self, args: &[&str]) -> Said {
        let said = Said::of(self.command(args).output().unwrap());
        self.assert_nothing_is_left();
        said
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.processes(), Vec::<PathBuf>::new());
        assert_eq!(self.left_in_dirs(), Vec::<PathBuf>::new());
    }

    fn left_in_dirs(&self) -> Vec<PathBuf> {
        let both = [self.disk.path(), self.memory.path()];
        both.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).map(|e| e.unwrap().path()).collect()
    }

    /// Returns the processes that were forked: three of each peer.
    fn forked(&self) -> Vec<PathBuf> {
        let wanted = format!("sleep\0{}\0", self.marker);
        let is_forked = |path: &PathBuf| {
            fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line == wanted)
        };
        self.processes().into_iter().filter(is_forked).collect()
    }

    /// Returns all processes that a peer has forked, and the peers themselves, by their marks.
    fn processes(&self) -> Vec<PathBuf> {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let is_ours = |path: &PathBuf| {
            let has = |file: &str, mark: &str| {
                let bytes = fs::read(path.join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).contains(mark)
            };
            has("cmdline", &self.marker)
                || has("environ", &format!("PRETEND_MARKER={}", self.marker))
                || has("cmdline", self.disk.path().to_str().unwrap())
        };
        processes.filter(is_ours).collect()
    }
}

/// What the command has said.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    fn assert(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for wanted in words {
            assert!(self.text.contains(wanted), "{wanted}: {}", self.text);
        }
    }
}

/// Waits until something is so; fails after a minute.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "not after a minute: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

const FOR_EVER: Duration = Duration::from_secs(100_000);

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let scene = Scene::new(&[]);
    scene.run(&["--only", "redis,rodis"]).assert(2, &["'rodis'", "redis, valkey, postgres, etcd"]);
}

#[test]
fn what_is_not_installed_is_skipped_with_the_line_that_installs_it() {
    let scene = Scene::new(&[]);
    let lines = ["skipped: redis is not installed: apt-get install redis-server", "none of them"];
    scene.run(&["--check", "--only", "redis,memcached"]).assert(1, &lines);
}

/// A peer that does not start must not keep the others from being measured.
#[test]
fn a_peer_that_ends_at_once_is_told_with_its_own_words() {
    let scene = Scene::new(&[("redis-server", "refuses")]);
    let words = ["redis 9.8.7, durable: failed", "no such setting", "exit status: 4"];
    scene.run(&["--check", "--only", "redis"]).assert(1, &words);
}

#[test]
fn a_peer_that_never_listens_is_given_up() {
    let scene = Scene::new(&[("redis-server", "deaf")]);
    let args = ["--check", "--only", "redis", "--patience", "0.3"];
    scene.run(&args).assert(1, &["did not come up within 0.3 s", "it does not listen"]);
}

/// A server that syncs once in a second would win every comparison with one that always does.
#[test]
fn a_peer_that_is_not_set_as_was_meant_is_not_measured() {
    let scene = Scene::new(&[("redis-server", "lies")]);
    let words = ["not set as was meant: appendfsync should be `always` and is `everysec`"];
    scene.run(&["--check", "--only", "redis"]).assert(1, &words);
}

/// Starts a check of a peer that never comes up, and waits until it has forked.
fn start_of_a_deaf_one(scene: &Scene) -> Child {
    let child = scene.command(&["--check", "--only", "redis"]).spawn().unwrap();
    wait_until("three have been forked", || scene.forked().len() == 3);
    child
}

/// A peer that ends in the middle must not be compared, and not end the check of the others.
#[test]
fn a_peer_that_ends_in_the_middle_is_told_and_the_others_go_on() {
    let scene = Scene::new(&[("redis-server", "dies"), ("valkey-server", "good")]);
    let words = [
        "redis 9.8.7, durable: failed: ",
        "connection lost",
        "my disk has gone",
        "it ended: exit status: 3",
        "valkey 9.8.7, durable: ok: appendonly yes, appendfsync always",
        "valkey 9.8.7, persistence off: ok",
    ];
    scene.run(&["--check", "--only", "redis,valkey"]).assert(1, &words);
}

#[test]
fn a_peer_that_does_as_it_says_is_well() {
    let scene = Scene::new(&[("redis-server", "good")]);
    scene.run(&["--check", "--only", "redis"]).assert(0, &["redis 9.8.7, durable: ok"]);
    let skipped = ["skipped: valkey"];
    scene.run(&["--check", "--only", "redis,valkey"]).assert(0, &skipped);
    scene.run(&["--check", "--only", "redis,valkey", "--deny-skips"]).assert(1, &skipped);
}

/// Rounds go on without a peer that has ended, and the result says which one and why.
#[test]
fn rounds_go_on_without_a_peer_that_ends() {
    let scene = Scene::new(&[("redis-server", "dies"), ("valkey-server", "good")]);
    let bench = scene.beside_an_impasto();
    let json = scene.bin.path().join("peers.json");
    let mut command = Command::new(&bench);
    scene.arguments(&mut command);
    command.args(["--only", "redis,valkey", "--connections", "2", "--rounds", "3"]);
    command.args(["--window", "0.05", "--warm-up", "0", "--wait", "1000000"]);
    command.arg("--json").arg(&json);
    let said = Said::of(command.output().unwrap());
    scene.assert_nothing_is_left();
    said.assert(1, &["redis: ended while it was measured", "my disk has gone", "impasto disk"]);
    let text = fs::read_to_string(&json).unwrap();
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = result["tables"][0]["rows"].as_array().unwrap();
    let rounds = |name: &str| {
        let row = rows.iter().find(|row| row["server"] == name).unwrap();
        (row["rounds"].clone(), row["impasto_by_this"]["requests/s"]["rounds"].clone())
    };
    assert_eq!(rounds("valkey 9.8.7"), (3.into(), 3.into()), "{text}");
    assert_eq!(rounds("redis 9.8.7").0, 0, "{text}");
    assert!(!result["commit"].is_null() && !result["kernel"].is_null());
}

fn a_signal_leaves_nothing(signal: &str) {
    let scene = Scene::new(&[("redis-server", "deaf")]);
    let mut bench = start_of_a_deaf_one(&scene);
    assert_eq!(scene.left_in_dirs().len(), 1);
    let pid = bench.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    bench.wait().unwrap();
    // Nobody is left to wait for: the keeper goes on for a moment.
    wait_until("no process is left", || scene.processes().is_empty());
    wait_until("no directory is left", || scene.left_in_dirs().is_empty());
}

#[test]
fn nothing_is_left_after_sigterm() {
    a_signal_leaves_nothing("-TERM");
}

/// Nobody can clean up after himself then: the keeper does.
#[test]
fn nothing_is_left_after_sigkill() {
    a_signal_leaves_nothing("-KILL");
}

/// What has a session of its own, and is stopped, does not hear that its parent has ended.
#[test]
fn nothing_is_left_when_the_keeper_is_killed() {
    let scene = Scene::new(&[("redis-server", "good")]);
    let bench = scene.beside_an_impasto();
    let mut command = Command::new(&bench);
    scene.arguments(&mut command);
    command.args(["--only", "redis", "--connections", "2", "--rounds", "1000000"]);
    command.args(["--window", "0.05", "--warm-up", "0", "--wait", "1000000"]);
    let mut bench = command.spawn().unwrap();
    let keeper = |path: &PathBuf| {
        let line = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        line.contains("\0keep\0") && line.contains("redis-server")
    };
    let forked = || scene.forked();
    wait_until("both are up", || scene.processes().iter().any(keeper) && forked().len() == 6);
    // Stopped once at least: it has been visited, or waits for that.
    wait_until("it is stopped", || forked().iter().any(|path| is_stopped(path)));
    let keeper = scene.processes().into_iter().find(keeper).unwrap();
    let kill = |signal: &str, pid: &str| {
        assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
    };
    kill("-KILL", keeper.file_name().unwrap().to_str().unwrap());
    kill("-TERM", &bench.id().to_string());
    bench.wait().unwrap();
    wait_until("no process is left", || scene.processes().is_empty());
    assert_eq!(scene.left_in_dirs(), Vec::<PathBuf>::new());
}

fn is_stopped(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains("T (stopped)"))
}
