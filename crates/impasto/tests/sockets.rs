//! Unix sockets, sockets and readiness as a service manager gives and wants them.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    Server,
    client::{Client, value},
    impasto, place, serve,
};
use rustix::process::Signal;

/// Returns what the service manager is told next.
fn told(manager: &UnixDatagram) -> String {
    let mut text = [0; 4096];
    let len = manager.recv(&mut text).unwrap();
    String::from_utf8(text[..len].to_vec()).unwrap()
}

fn manager(path: &Path) -> UnixDatagram {
    let manager = UnixDatagram::bind(path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    manager
}

/// Starts a server that inherits `socket` as a service manager hands it over.
fn activated(socket: OwnedFd, dir: &Path) -> Command {
    let mut command = Command::new("sh");
    // Descriptor 3 is the first one that is handed over; the shell's number stays the server's.
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_impasto"), "serve", "--size", "16MiB"]);
    command.arg("--data").arg(dir).stdin(Stdio::from(socket));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A Unix socket's client: to the test it is a stream as any.
fn local(path: &Path) -> Client {
    let stream = UnixStream::connect(path).unwrap();
    Client::new(TcpStream::from(OwnedFd::from(stream)))
}

/// A local client that has no way around TCP would need a port, and a firewall for it.
#[test]
fn a_unix_socket_serves_as_tcp_does() {
    let (dir, run) = (place(), place());
    let socket = run.path().join("http.sock");
    let unix = ["--size", "16MiB", "--unix", socket.to_str().unwrap()];
    let mut server = Server::start(dir.path(), &unix);
    assert!(server.says(&format!("and on     unix:{}", socket.display())), "{:?}", server.banner);
    let (mut client, body) = (local(&socket), value(1, 300_000));
    assert_eq!((client.append("a", b"hello"), client.append("a", body)), (1, 2));
    server.client().read_is("a", 1, b"hello");
    client.read_is("a", 2, body);
    // Another server, in another directory, must not take the socket away.
    let other = place();
    let refused = serve(other.path(), &unix).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("listens on") && text.contains("--unix"), "{text}");

    server.send_kill();
    server.wait();
    assert!(socket.exists(), "killed, it leaves its socket");
    let server = Server::start(dir.path(), &unix);
    local(&socket).read_is("a", 1, b"hello");
    assert!(server.stop(Signal::TERM).success());
    assert!(!socket.exists(), "a clean stop removes it");
}

#[test]
fn a_server_may_listen_on_a_unix_socket_alone() {
    let (dir, run) = (place(), place());
    let socket = run.path().join("http.sock");
    let mut command = impasto(&["serve", "--size", "16MiB", "--data"]);
    command.arg(dir.path()).arg("--unix").arg(&socket);
    let server = Server::spawn(command);
    assert_eq!(server.banner.last().unwrap(), &format!("listening  unix:{}", socket.display()));
    assert_eq!(local(&socket).append("a", b"x"), 1);
}

/// The manager starts the server with the first connection, which must not be lost meanwhile.
#[test]
fn sockets_of_a_service_manager_are_served() {
    let (dir, run) = (place(), place());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let early = TcpStream::connect(address).unwrap();
    let server = Server::spawn(activated(tcp.into(), dir.path()));
    assert_eq!(server.banner.last().unwrap(), &format!("listening  http://{address}"));
    assert_eq!(Client::new(early).append("a", b"early"), 1);
    drop(server);

    let path = run.path().join("given.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let server = Server::spawn(activated(unix.into(), dir.path()));
    local(&path).read_is("a", 1, b"early");
    assert!(server.stop(Signal::TERM).success());
    assert!(path.exists(), "the manager's socket is the manager's");
}

/// One configuration serves with and without the manager's sockets: the address that it names may
/// be theirs, and a server that wants it for itself does not start.
#[test]
fn an_address_that_the_service_manager_listens_on_is_not_wanted_again() {
    let (dir, run) = (place(), place());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let mut command = activated(tcp.into(), dir.path());
    command.arg("--http").arg(address.to_string());
    let server = Server::spawn(command);
    assert_eq!(server.banner.last().unwrap(), &format!("listening  http://{address}"));
    assert_eq!(server.client().append("a", b"x"), 1);
    drop(server);
    let path = run.path().join("given.sock");
    let mut command = activated(UnixListener::bind(&path).unwrap().into(), dir.path());
    command.arg("--unix").arg(&path);
    drop(Server::spawn(command));
    assert!(path.exists(), "the manager's socket is the manager's");
}

#[test]
fn what_is_no_listening_socket_is_refused_by_its_number() {
    let dir = place();
    let file = fs::File::open("/dev/null").unwrap();
    let datagrams = UnixDatagram::unbound().unwrap();
    for given in [OwnedFd::from(file), OwnedFd::from(datagrams)] {
        let refused = activated(given, dir.path()).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.contains("descriptor 3") && text.contains("ListenStream="), "{text}");
    }
    assert!(!dir.path().join("region").exists(), "refused before anything is made");
}

/// Told too early, the manager starts what depends on the server; never told, it gives up on it.
#[test]
fn readiness_is_told_when_requests_are_answered_and_the_watchdog_is_fed() {
    let (dir, run) = (place(), place());
    let path = run.path().join("notify");
    let manager = manager(&path);
    let mut command = serve(dir.path(), &["--size", "16MiB"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let server = Server::spawn(command);
    let text = told(&manager);
    assert!(text.starts_with("READY=1\n"), "{text}");
    let place = server.banner.last().unwrap().strip_prefix("listening  ").unwrap();
    assert!(text.contains("STATUS=serving") && text.contains(place), "{text}");
    assert_eq!(server.client().append("a", b"x"), 1);
    for _ in 0..3 {
        assert_eq!(told(&manager), "WATCHDOG=1\n");
    }
    assert!(server.stop(Signal::TERM).success());
}
