//! Descriptors that operations in flight share.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use io_uring::types;

/// A descriptor; closed when its last holder drops it. Every operation holds it until it has
/// completed, so its number never means another file in between. Workers may share one.
#[derive(Clone, Debug)]
pub struct Fd(Arc<OwnedFd>);

impl Fd {
    pub(crate) fn target(&self) -> types::Fd {
        types::Fd(self.0.as_raw_fd())
    }

    /// Returns the descriptor, if nobody else holds it.
    pub(crate) fn into_sole(self) -> Option<OwnedFd> {
        Arc::into_inner(self.0)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl From<File> for Fd {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<TcpListener> for Fd {
    fn from(listener: TcpListener) -> Self {
        OwnedFd::from(listener).into()
    }
}

impl From<TcpStream> for Fd {
    fn from(stream: TcpStream) -> Self {
        OwnedFd::from(stream).into()
    }
}
