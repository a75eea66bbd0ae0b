//! Where a server listens: where it was told to, and on the sockets that a service manager gives.

use std::{
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use impasto::ring::{Listener, listen, listen_unix};
use listenfd::ListenFd;
use socket2::SockRef;

use crate::cli::Failure;

/// Where to listen if nobody says.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Open sockets, and what they are called. A Unix socket's file goes with it, unless the service
/// manager has made it.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    sockets: Vec<Listener>,
    pub(super) places: Vec<Place>,
    made: Vec<PathBuf>,
}

/// Where clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    Http(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    /// Returns true if other machines may reach it.
    pub(in crate::cli) const fn is_exposed(&self) -> bool {
        matches!(self, Self::Http(address) if !address.ip().is_loopback())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listeners {
    /// Listens on all of `http` and `unix`, but for what a service manager gives already; without
    /// any of these, on the usual address.
    pub(super) fn open(http: &[SocketAddr], unix: &[PathBuf]) -> Result<Self, Failure> {
        let mut listeners = Self::default();
        listeners.take_given(&mut ListenFd::from_env())?;
        let given = listeners.places.clone();
        for path in unix.iter().filter(|path| !given.contains(&Place::Unix(path.to_path_buf()))) {
            listeners.listen_unix(path)?;
        }
        let is_told = !listeners.places.is_empty() || !http.is_empty();
        let http = if is_told { http } else { &[HTTP] };
        for address in http.iter().filter(|address| !given.contains(&Place::Http(**address))) {
            listeners.listen(*address)?;
        }
        Ok(listeners)
    }

    /// Returns the sockets, once.
    pub(super) fn take(&mut self) -> Vec<Listener> {
        std::mem::take(&mut self.sockets)
    }

    fn listen(&mut self, address: SocketAddr) -> Result<(), Failure> {
        let listener = listen(address).map_err(|error| {
            format!("cannot listen on {address}: {error}; choose another --http")
        })?;
        self.places.push(Place::Http(listener.local_addr()?));
        self.sockets.push(listener.into());
        Ok(())
    }

    fn listen_unix(&mut self, path: &Path) -> Result<(), Failure> {
        let listener = listen_unix(path).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("a server listens on {} already; choose another --unix", path.display())
            }
            _ => format!("cannot listen on {}: {error}; choose another --unix", path.display()),
        })?;
        self.made.push(path.to_owned());
        self.places.push(Place::Unix(path.to_owned()));
        self.sockets.push(listener.into());
        Ok(())
    }

    /// `sd_listen_fds(3)`: descriptors from 3 on, if `LISTEN_PID` means this process.
    fn take_given(&mut self, given: &mut ListenFd) -> Result<(), Failure> {
        for index in 0..given.len() {
            let (place, listener, listens) = if let Ok(Some(tcp)) = given.take_tcp_listener(index) {
                let listens = SockRef::from(&tcp).is_listener()?;
                (Place::Http(tcp.local_addr()?), Listener::from(tcp), listens)
            } else if let Ok(Some(unix)) = given.take_unix_listener(index) {
                let listens = SockRef::from(&unix).is_listener()?;
                let path = unix.local_addr()?.as_pathname().map(Path::to_owned);
                (Place::Unix(path.unwrap_or_default()), Listener::from(unix), listens)
            } else {
                return Err(format!(
                    "descriptor {} of the service manager is neither a TCP nor a Unix stream \
                     socket; say ListenStream= in the socket unit",
                    index + 3
                )
                .into());
            };
            if !listens {
                return Err(format!(
                    "descriptor {} of the service manager, {place}, does not listen; say Accept=no \
                     in the socket unit",
                    index + 3
                )
                .into());
            }
            self.places.push(place);
            self.sockets.push(listener);
        }
        Ok(())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for path in &self.made {
            // Whoever listens there next would remove it, too.
            let _left = fs::remove_file(path);
        }
    }
}
