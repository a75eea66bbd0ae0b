//! The server where system calls are forbidden, as in a container: under a real seccomp filter.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    env,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use common::{
    Server,
    client::{Client, value},
    media, serve, verify,
};
use rustix::{io::Errno, process::Signal};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

const NAME: &str = "where_io_uring_is_forbidden_nothing_acknowledged_is_lost";
/// In the process that becomes the server: its filter and its arguments, each behind a line feed.
const ARGS: &str = "IMPASTO_TEST_SERVE";
const CONNECTIONS: u64 = 6;

/// What a sandbox says to system calls that it does not let through.
#[derive(Clone, Copy, Debug)]
enum Sandbox {
    /// Docker's default profile, and hardened kernels.
    Forbids,
    /// One that has its own kernel: it knows neither io_uring nor `RWF_DSYNC`.
    KnowsLittle,
}

impl Sandbox {
    fn filter(self) -> BpfProgram {
        let (errno, calls) = match self {
            Self::Forbids => (Errno::PERM, vec![libc::SYS_io_uring_setup]),
            Self::KnowsLittle => (Errno::NOSYS, vec![libc::SYS_io_uring_setup, libc::SYS_pwritev2]),
        };
        let errno = u32::try_from(errno.raw_os_error()).unwrap();
        let rules = calls.into_iter().map(|call| (call, vec![])).collect();
        let arch = env::consts::ARCH.try_into().unwrap();
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch);
        filter.unwrap().try_into().unwrap()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Forbids => "forbids",
            Self::KnowsLittle => "knows little",
        }
    }

    /// Starts a server in it: this program again, which puts on the filter and becomes the server.
    fn start(self, dir: &Path, more: &[&str]) -> Server {
        let server = serve(dir, more);
        let args = server.get_args().map(|arg| arg.to_str().unwrap());
        let lines: Vec<&str> = [self.name()].into_iter().chain(args).collect();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]).env(ARGS, lines.join("\n"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Server::spawn(command)
    }
}

fn become_server(lines: &str) -> ! {
    let mut lines = lines.lines();
    let name = lines.next().unwrap();
    let sandboxes = [Sandbox::Forbids, Sandbox::KnowsLittle];
    let sandbox = sandboxes.into_iter().find(|sandbox| sandbox.name() == name).unwrap();
    apply_filter(&sandbox.filter()).unwrap();
    let error = Command::new(env!("CARGO_BIN_EXE_impasto")).args(lines).env_remove(ARGS).exec();
    panic!("{error}")
}

/// Appends until the server dies; returns the numbers of records, and of their values.
fn load(server: &Server, connection: u64, said: &mpsc::Sender<()>) -> Vec<(u64, u64)> {
    let (mut client, mut acked) = (server.client(), Vec::new());
    for number in (connection..).step_by(usize::try_from(CONNECTIONS).unwrap()) {
        let Ok(reply) = client.ask("POST /v1/logs/a", value(number, len(number))) else {
            return acked;
        };
        acked.push((reply.seq(), number));
        // Whoever counts has enough when it does not listen any more.
        let _enough = said.send(());
    }
    unreachable!("killed before")
}

fn len(number: u64) -> usize {
    let long = if number.is_multiple_of(40) { 150_000 } else { 0 };
    usize::try_from(number * 131 % 3000 + long).unwrap()
}

fn check(client: &mut Client, acked: &[(u64, u64)]) {
    for (seq, number) in acked {
        let reply = client.ask(&format!("GET /v1/logs/a/{seq}"), &[]).unwrap();
        assert_eq!(reply.status, 200, "{seq}");
        assert!(reply.body == value(*number, len(*number)), "{seq} has another value");
    }
}

fn says_why(server: &Server, sandbox: Sandbox) {
    let why = match sandbox {
        Sandbox::Forbids => "epoll: io_uring is forbidden here",
        Sandbox::KnowsLittle => "epoll: this kernel offers no io_uring",
    };
    assert!(server.says(why), "{:?}", server.banner);
}

/// Without the second way there would be no server in most containers; with a way that keeps the
/// rules less well (D3, D6), one that loses records.
#[test]
fn where_io_uring_is_forbidden_nothing_acknowledged_is_lost() {
    const GOAL: usize = 300;
    if let Ok(lines) = env::var(ARGS) {
        become_server(&lines);
    }
    for (medium, dir) in media() {
        let mut acked = Vec::new();
        let mut args = vec!["--medium", medium, "--size", "64MiB"];
        for (workers, sandbox) in
            ["1", "2"].into_iter().zip([Sandbox::Forbids, Sandbox::KnowsLittle])
        {
            args.extend(["--workers", workers]);
            let mut server = sandbox.start(dir.path(), &args);
            says_why(&server, sandbox);
            check(&mut server.client(), &acked);
            thread::scope(|scope| {
                let (say, hear) = mpsc::channel();
                let loads: Vec<_> = (0..CONNECTIONS)
                    .map(|connection| {
                        let (server, say) = (&server, say.clone());
                        scope.spawn(move || load(server, connection, &say))
                    })
                    .collect();
                drop(say);
                assert_eq!((0..GOAL).take_while(|_| hear.recv().is_ok()).count(), GOAL);
                server.send_kill();
                acked.extend(loads.into_iter().flat_map(|load| load.join().unwrap()));
            });
            assert!(!server.wait().success());
            args.truncate(2);
        }
        // Where nothing is forbidden, the same region goes on.
        let server = Server::start(dir.path(), &["--medium", medium]);
        check(&mut server.client(), &acked);
        assert!(server.stop(Signal::TERM).success());
        let output = verify(dir.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Whoever asks for io_uring wants to know that it is not there, and why.
#[test]
fn io_uring_that_was_asked_for_is_not_replaced() {
    let dir = common::place();
    let output = thread::spawn(move || {
        // The filter is this thread's, and what it starts.
        apply_filter(&Sandbox::Forbids.filter()).unwrap();
        serve(dir.path(), &["--size", "16MiB", "--io", "uring"]).output().unwrap()
    });
    let output = output.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("kernel.io_uring_disabled"), "{text}");
}

/// One probe of many asks for io_uring: it says why there is none, and the others go on.
#[test]
fn a_budget_is_measured_without_what_is_forbidden() {
    let dir = common::place();
    let output = thread::spawn(move || {
        apply_filter(&Sandbox::Forbids.filter()).unwrap();
        let mut budget = common::impasto(&["budget", "--quick", "--working-set", "1MiB"]);
        budget.arg("--dir").arg(dir.path()).output().unwrap()
    });
    let output = output.join().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let row = out.lines().find(|line| line.contains("operation, 64 in a call")).unwrap();
    assert!(row.contains("kernel.io_uring_disabled"), "{row}");
    assert!(out.contains("a packet's path, one core"), "{out}");
}
