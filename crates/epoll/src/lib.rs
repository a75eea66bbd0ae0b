//! The operations of io_uring by readiness, for where io_uring is forbidden: one [`Epoll`] per
//! worker.
//!
//! It speaks `impasto-uring`'s words: what is started completes, and memory in flight comes back
//! with completions. Nothing happens before [`Epoll::enter`]: no system call is made by whoever
//! starts something.
//!
//! ```text
//!   enter:  hand writes and reads of files to threads, wake others
//!           send what was queued: one system call for each socket
//!           epoll_wait
//!           receive from sockets that are ready, accept, send on
//! ```
//!
//! ```
//! use impasto_epoll::Epoll;
//! use impasto_uring::{Fd, Owner, Token};
//! # fn main() -> std::io::Result<()> {
//! # let file = tempfile::tempfile()?;
//! let mut io = Epoll::new()?;
//! let token = Token { owner: Owner::Dev, value: 7 };
//! io.fsync_data(token, &Fd::from(file));
//! io.enter(None)?;
//! let done = io.completion(Owner::Dev).expect("enter waited for it");
//! assert_eq!(done.token, token);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod epoll;
mod group;
#[expect(unsafe_code, reason = "ARCHITECTURE.md: addresses given to the kernel")]
mod kernel;
mod operation;
mod pool;
mod sources;
mod waker;

pub use epoll::Epoll;
pub use group::{BufGroup, Landing};
pub use waker::Waker;
