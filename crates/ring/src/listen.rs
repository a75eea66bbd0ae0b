//! Listening sockets, and what the sockets accepted from them inherit.

use std::{
    fs::{self, Permissions},
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

use impasto_uring::Fd;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Connections that wait for an accept.
const BACKLOG: i32 = 4096;
/// When a silent peer is asked whether it is there, how often, and how many times.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);
/// The longest user timeout: the kernel takes it for an `int` of milliseconds.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis((1 << 31) - 1);

/// Makes a listener. One on an IPv6 address takes no IPv4 connections, so that both can have the
/// port.
///
/// # Errors
/// What the system says, usually that the address is in use or not this machine's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes a listener for clients on this machine, at `path`. The owner and the group of the socket
/// may connect; who may reach it is a matter of its directory.
///
/// What a server that was killed has left at `path` is removed.
///
/// # Errors
/// `AddrInUse` if a server listens there, `AlreadyExists` if something else is there, or what the
/// system says.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before `listen`.
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where connections come from: TCP, or a Unix socket.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Kind::Tcp(listener))
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self(Kind::Unix(listener))
    }
}

impl Listener {
    /// Sets what accepted sockets inherit, and returns what to accept from.
    pub(crate) fn prepare(self, stall_max: Duration) -> io::Result<Fd> {
        let listener = match self.0 {
            Kind::Tcp(listener) => {
                prepare(&listener, stall_max)?;
                OwnedFd::from(listener)
            }
            // The other end is a process of this machine: it cannot vanish silently.
            Kind::Unix(listener) => listener.into(),
        };
        Ok(listener.into())
    }
}

/// Sets what accepted sockets inherit.
fn prepare(listener: &TcpListener, stall_max: Duration) -> io::Result<()> {
    let socket = SockRef::from(listener);
    // Replies leave as they are: they are whole.
    socket.set_tcp_nodelay(true)?;
    // A peer that has vanished, whether it owes us anything or not. With a user timeout, that ends
    // the probes, not their number.
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    // One that does not acknowledge or, since Linux 5.11, does not read (commit 9d9b1ee0b2d1).
    socket.set_tcp_user_timeout(Some(stall_max.min(USER_TIMEOUT_MAX)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A socket that a killed server has left would keep the next one from starting; one that is
    /// served, or a file of somebody's, must not be removed.
    #[test]
    fn a_socket_is_replaced_if_nobody_listens_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(listen_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(listen_unix(&path).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert_eq!(listen_unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    /// Without the limit a stall of 25 days or more is refused as an invalid argument, and no port
    /// starts.
    #[test]
    fn a_stall_that_the_kernel_cannot_count_is_the_longest_that_it_can() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for stall_max in [Duration::from_secs(30 * 24 * 3600), Duration::MAX] {
            prepare(&listener, stall_max).unwrap();
            let timeout = SockRef::from(&listener).tcp_user_timeout().unwrap();
            assert_eq!(timeout, Some(USER_TIMEOUT_MAX));
        }
    }
}
