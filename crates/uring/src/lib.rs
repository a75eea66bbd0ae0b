//! The only io_uring: one per worker.
//!
//! [`Uring`] starts operations and hands out their completions, by owner. Memory in flight is its
//! own: the bytes of a send, the buffers of a receive and the descriptors come back with
//! completions, so that the kernel never writes into memory that was freed, whatever is dropped
//! first.
//!
//! ```
//! use impasto_uring::{Fd, Owner, Token, Uring};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut file = tempfile::tempfile()?;
//! let mut io = match Uring::new(64) {
//!     Ok(io) => io,
//!     Err(error) => {
//!         eprintln!("{error}"); // says what is missing and what to do
//!         return Ok(());
//!     }
//! };
//! let token = Token { owner: Owner::Dev, value: 7 };
//! io.fsync_data(token, &Fd::from(file));
//! io.enter(None)?;
//! let done = io.completion(Owner::Dev).expect("enter waited for it");
//! assert_eq!(done.token, token);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod error;
mod fd;
mod flight;
#[expect(unsafe_code, reason = "ARCHITECTURE.md: memory that the kernel writes")]
mod group;
mod message;
mod operations;
mod probe;
#[expect(unsafe_code, reason = "ARCHITECTURE.md: the system calls")]
mod ring;
mod waker;

pub use error::{KERNEL_MIN, SetupError};
pub use fd::{Fd, WeakFd};
pub use group::{BufGroup, Landed, Landing, Mode};
pub use message::{Iovec, Message, Piece};
pub use operations::{Completion, Completions, Handed, Op, Operations, Owner, Token};
pub use ring::Uring;
pub use waker::Waker;
