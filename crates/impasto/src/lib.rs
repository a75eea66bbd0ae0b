//! Impasto: durable network storage.
//!
//! A payload lands once, in a named buffer of a region that survives a crash; a record in one log
//! names it; the reply leaves when that record is durable, not before. This crate gathers the
//! parts, one module each, and brings the command line `impasto`.
//!
//! | module | what it is |
//! |---|---|
//! | [`region`] | the named bytes: file, geometry, superblocks, frames, free buffers |
//! | [`store`] | one log on the medium, many named logs in it: a state machine |
//! | [`media`] | what makes bytes durable: `disk`, `pmem` |
//! | [`ring`] | slots between head and tail, and the ports that fill them |
//! | [`uring`] | the only io_uring |
//! | [`epoll`] | what io_uring does, without io_uring |
//! | [`server`] | the loop that owns all of them; HTTP |

//!
//! The whole of a server, in memory: the loop, the store and the medium are those that serve a disk
//! and TCP; the port is one that a test can hold in its hands.
//!
//! ```
//! use std::{io, time::{Duration, Instant}};
//!
//! use impasto::{
//!     media::{CpuLines, Pmem},
//!     region::{Frames, layout::{Geometry, MediumKind, Superblock}},
//!     ring::LoopPort,
//!     server::{self, Enter, Parts, Shared, SharedParts, Worker},
//! };
//!
//! /// Nothing here has to be waited for.
//! struct Now;
//!
//! impl Enter for Now {
//!     type Waker = ();
//!
//!     fn waker(&self) -> io::Result<()> {
//!         Ok(())
//!     }
//!
//!     fn wake(&mut self, _waker: &()) {}
//!
//!     fn enter(&mut self, _limit: Option<Duration>) -> io::Result<bool> {
//!         Ok(true)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let geometry = Geometry::try_from(16 << 20)?;
//! let mut frames = Frames::anonymous(geometry, 0)?;
//! let mut medium = Pmem::new(CpuLines::detect(), MediumKind::Shm);
//! let superblock = Superblock::fresh(geometry, MediumKind::Shm);
//! let (store, report) = server::start(&mut Now, &mut medium, &mut frames, superblock)?;
//! assert_eq!(report.records, 0);
//!
//! let port = LoopPort::new(256);
//! let peer = port.peer();
//! let clock = Box::new(Instant::now);
//! let options = server::config::Options::default();
//! let shared = Shared::new(SharedParts { medium, frames, workers: 1, store, geometry, options });
//! let mut worker = Worker::new(Parts { io: Now, port, shared, clock, busy_poll: false })?;
//!
//! let flow = peer.open().expect("the port accepts");
//! peer.push(flow, b"POST /v1/logs/greetings HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\n");
//! peer.push(flow, b"hello");
//! peer.push(flow, b"GET /v1/logs/greetings/1 HTTP/1.1\r\nhost: h\r\n\r\n");
//! worker.turn(None)?; // receives, parses, applies, commits; replies to what is durable
//! let replies = String::from_utf8(peer.take_sent(flow))?;
//! assert!(replies.starts_with("HTTP/1.1 201 Created"), "{replies}");
//! assert!(replies.ends_with("hello"), "{replies}");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub use impasto_epoll as epoll;
pub use impasto_media as media;
pub use impasto_region as region;
pub use impasto_ring as ring;
pub use impasto_server as server;
pub use impasto_store as store;
pub use impasto_uring as uring;
