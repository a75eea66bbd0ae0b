//! Listening sockets, and what the sockets accepted from them inherit.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

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

/// Sets what accepted sockets inherit.
pub(crate) fn prepare(listener: &TcpListener, stall_max: Duration) -> io::Result<()> {
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
