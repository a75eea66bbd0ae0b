//! `impasto-bench compare` as a user runs it, with few windows. What is beside it in place of
//! `impasto` is Impasto put together from its parts, so that nothing else has to be built.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A place of its own for everything that a comparison makes.
struct Scene {
    bin: TempDir,
    disk: TempDir,
    memory: TempDir,
    out: TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let scene = Self { bin: dir(), disk: dir(), memory, out: dir() };
        let bench = scene.bin.path().join("impasto-bench");
        fs::copy(env!("CARGO_BIN_EXE_impasto-bench"), &bench).unwrap();
        let impasto = scene.bin.path().join("impasto");
        fs::write(&impasto, format!("#!/bin/sh\nexec {} \"$@\"\n", bench.display())).unwrap();
        fs::set_permissions(&impasto, fs::Permissions::from_mode(0o755)).unwrap();
        scene
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.path().join("impasto-bench"));
        command.arg("compare").args(args);
        command.args([
            "--quick",
            "--only",
            "post",
            "--window",
            "0.2",
            "--warm-up",
            "0",
            "--wait",
            "10000",
        ]);
        command.args(["--server-core", "0", "--client-core", "0", "--region", "32MiB"]);
        command.arg("--disk-dir").arg(self.disk.path());
        command.arg("--memory-dir").arg(self.memory.path());
        command.arg("--out").arg(self.out.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        self.said(self.command(args).output().unwrap())
    }

    /// Asserts that nothing is left, neither a process nor what it has made.
    fn said(&self, output: Output) -> Said {
        assert_eq!(self.servers(""), Vec::<PathBuf>::new());
        for dir in [self.disk.path(), self.memory.path()] {
            assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "{}", dir.display());
        }
        let text = [output.stdout, output.stderr].concat();
        Said { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// Returns the processes whose command line has `word` in it, and a directory of this scene.
    fn servers(&self, word: &str) -> Vec<PathBuf> {
        let dirs = [self.disk.path(), self.memory.path()].map(|dir| dir.display().to_string());
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let is_ours = |path: &PathBuf| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("--data")
                && line.contains(word)
                && !line.contains(" keep ")
                && dirs.iter().any(|dir| line.contains(dir.as_str()))
        };
        processes.filter(is_ours).collect()
    }

    fn json(&self) -> Value {
        let text = fs::read_to_string(self.out.path().join("compare.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Returns how many rounds the journal holds.
    fn kept(&self) -> usize {
        let text = fs::read_to_string(self.out.path().join("journal.jsonl")).unwrap_or_default();
        text.lines().count().saturating_sub(1)
    }

    fn wait_for_rounds(&self, count: usize, child: &mut Child) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.kept() < count {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            assert!(Instant::now() < until, "no round within a minute");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    fn assert(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for wanted in words {
            assert!(self.text.contains(wanted), "{wanted}: {}", self.text);
        }
    }
}

fn cells(json: &Value) -> Vec<Value> {
    json["workloads"][0]["cells"].as_array().unwrap().clone()
}

/// A harness that only runs on quiet machines, by hand, breaks unseen.
#[test]
fn servers_are_compared_and_drawn_and_nothing_is_left_behind() {
    let scene = Scene::new();
    let said = scene.run(&["--servers", "v1b,group", "--rounds", "2"]);
    said.assert(0, &["machine", "kernel", "commit", "command", "time", "raw disk", "compare.json"]);
    let json = scene.json();
    let cells = cells(&json);
    assert_eq!(cells.len(), 4 * 3, "{json}");
    for cell in &cells {
        assert_eq!(cell["errors"]["total"], 0, "{cell}");
        assert_eq!(cell["rounds"], 2, "{cell}");
        let is_reference = cell["server"].as_str().unwrap().starts_with("impasto");
        assert_eq!(cell["against"].is_null(), is_reference, "{cell}");
    }
    assert_eq!(cells[2]["against"]["ratios"]["CPU per request"]["rounds"], 2, "{json}");
    for name in ["memory-cpu.svg", "memory-cpu.png", "disk-throughput.svg", "disk-p99.png"] {
        assert!(scene.out.path().join(name).exists(), "{name}");
    }
    // The same again, from the journal alone: it agrees with itself.
    let json = scene.out.path().join("compare.json");
    let agree = ["--servers", "v1b,group", "--rounds", "2", "--resume", "--agree"];
    let said = scene.run(&[&agree[..], &[json.to_str().unwrap()]].concat());
    said.assert(0, &["0 of", "the worst is 0.0 %"]);
}

/// What is read has to be stored once, however many loads read it.
#[test]
fn reads_are_compared() {
    let scene = Scene::new();
    let said = scene.run(&["--only", "read", "--servers", "none", "--rounds", "1"]);
    said.assert(0, &["44-byte read, 100 connections"]);
}

/// An hour's work that is lost with the last minute's is not done twice.
#[test]
fn what_was_interrupted_goes_on() {
    let scene = Scene::new();
    let args = ["--servers", "none", "--rounds", "4"];
    let mut child = scene.command(&args).spawn().unwrap();
    scene.wait_for_rounds(1, &mut child);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let said = scene.said(child.wait_with_output().unwrap());
    said.assert(1, &["stopped by a signal"]);
    let kept = scene.kept();
    assert!((1..4).contains(&kept), "{kept}");

    scene.run(&["--servers", "none", "--rounds", "3", "--resume"]).assert(1, &["is of another"]);
    scene.run(&[&args[..], &["--resume"]].concat()).assert(0, &[]);
    assert_eq!(scene.kept(), 4);
    assert!(cells(&scene.json()).iter().all(|cell| cell["rounds"] == 4), "{}", scene.json());
}

/// One server that dies would end the measuring of all others, or be left out without a word.
#[test]
fn a_server_that_dies_is_told_and_the_others_go_on() {
    let scene = Scene::new();
    let mut child = scene.command(&["--servers", "none", "--rounds", "5"]).spawn().unwrap();
    scene.wait_for_rounds(1, &mut child);
    for server in scene.servers("baseline none") {
        let pid = server.file_name().unwrap().to_str().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    let said = scene.said(child.wait_with_output().unwrap());
    said.assert(1, &["windows failed"]);
    for cell in cells(&scene.json()) {
        let (rounds, failed) = (&cell["rounds"], &cell["windows"]["failed"]);
        match cell["server"].as_str().unwrap() {
            "none" => assert!(failed.as_u64().unwrap() > 0, "{cell}"),
            _ => assert!(rounds == 5 && failed == 0, "{cell}"),
        }
    }
}

#[test]
fn a_server_that_does_not_start_is_told_and_the_others_go_on() {
    let scene = Scene::new();
    let impasto = scene.bin.path().join("impasto");
    fs::write(&impasto, "#!/bin/sh\necho 'no such option' >&2; exit 7\n").unwrap();
    let said = scene.run(&["--servers", "none", "--rounds", "1"]);
    said.assert(1, &["failed   impasto-shm", "no such option", "exit status: 7"]);
    let cells = cells(&scene.json());
    let rounds = |name: &str| {
        let of_it = cells.iter().filter(|cell| cell["server"] == name);
        of_it.map(|cell| cell["rounds"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((rounds("none"), rounds("impasto-shm")), (3, 0));

    fs::remove_file(&impasto).unwrap();
    let said = scene.run(&["--servers", "none", "--rounds", "1"]);
    said.assert(1, &["build it first: cargo build"]);
}

#[test]
fn unknown_names_list_the_known_ones() {
    let scene = Scene::new();
    let said = scene.run(&["--servers", "v1,v9"]);
    said.assert(1, &["no server \"v9\"", "impasto-shm", "fdatasync", "sqlite"]);
    scene.run(&["--only", "mine"]).assert(1, &["no workload \"mine\"", "post, read, sizes"]);
    let missing = Path::new("/nonexistent/before.json");
    let said = scene.run(&["--agree", missing.to_str().unwrap()]);
    said.assert(1, &["cannot read /nonexistent/before.json"]);
}
