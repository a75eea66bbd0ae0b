//! Descriptors that operations in flight share.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
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

    /// Returns what knows this descriptor again, and does not keep it open.
    pub fn downgrade(&self) -> WeakFd {
        WeakFd(Arc::downgrade(&self.0))
    }

    /// Returns the descriptor, if nobody else holds it.
    pub fn into_sole(self) -> Option<OwnedFd> {
        Arc::into_inner(self.0)
    }
}

/// Knows an [`Fd`] again, also when its number has been given to another file.
#[derive(Clone, Debug, Default)]
pub struct WeakFd(Weak<OwnedFd>);

impl WeakFd {
    /// Returns true if it is `fd` that this was made of.
    pub fn is(&self, fd: &Fd) -> bool {
        self.0.as_ptr() == Arc::as_ptr(&fd.0)
    }

    /// Returns the descriptor, if it is still open.
    pub fn upgrade(&self) -> Option<Fd> {
        self.0.upgrade().map(Fd)
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
