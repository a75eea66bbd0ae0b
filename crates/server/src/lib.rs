//! The server: the loop that owns port, medium and store, and speaks HTTP/1.1.
//!
//! [`start()`] recovers a region, [`Worker`] serves it. A worker is one thread and everything in
//! it: it waits in one place ([`Enter`]), and is generic over what it waits on, where packets come
//! from and what makes them durable, so that the crash checker runs the same loop on simulated
//! hardware.
//!
//! To follow a packet, read `turn` first, then in this order: `input` (bytes to requests), `bodies`
//! (of appends), `calls`, `reads`, `rows` (requests to replies), `output` (replies to transmits);
//! `engine` is what they share, `flow` what is theirs, `shared` what all workers share.

#![forbid(unsafe_code)]

mod bodies;
mod calls;
pub mod config;
mod deadlines;
mod direct;
mod engine;
mod enter;
mod flow;
pub mod http;
mod input;
mod jobs;
mod landing;
mod monitor;
mod output;
mod placer;
mod pools;
mod reads;
mod rows;
mod shared;
mod start;
mod stop;
mod turn;
mod worker;

pub use enter::{Enter, Step};
pub use shared::{Shared, SharedParts};
pub use start::{Report, StartError, start, start_from};
pub use worker::{Parts, Worker};
