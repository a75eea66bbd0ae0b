//! Listening sockets, and what the sockets accepted from them inherit.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, SockRef, Socket, Type};

/// Connections that wait for an accept.
const BACKLOG: i32 = 4096;

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
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    // Replies leave as they are: they are whole.
    socket.set_tcp_nodelay(true)
}
