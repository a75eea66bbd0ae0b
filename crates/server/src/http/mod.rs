//! HTTP/1.1, as far as Impasto speaks it: heads into calls, answers into bytes.
//!
//! ```text
//! POST   /v1/logs/{log}                append the body           201
//! GET    /v1/logs/{log}/{seq}          one record                200, 206, 304, 404, 410
//! GET    /v1/logs/{log}?from=&limit=   records in a row          200, 404, 410
//! GET    /v1/logs/{log}                a log in numbers          200, 404
//! GET    /v1/logs                      the names of all logs     200
//! DELETE /v1/logs/{log}?before=SEQ     drop the oldest records   200, 404
//! GET    /version                                                200
//! GET    /livez, /readyz                                         200, 503
//! ```
//!
//! Nothing here knows of a connection: [`parse`] and [`Chunks`] take bytes, wherever they are;
//! answers are appended to a vector.

mod accept;
pub(crate) mod batch;
mod chunks;
pub(crate) mod digest;
mod head;
mod name;
pub(crate) mod problem;
pub(crate) mod reply;
mod route;
mod status;
mod terms;

pub use batch::{Batch, Form};
pub use chunks::{Chunks, Piece};
pub use digest::{Algorithm, Expected};
pub use head::{Framing, Head, parse};
pub use name::LogName;
pub use problem::{Extra, Fault, Problem};
pub use reply::Link;
pub use route::{Call, ROUTES};
pub use status::Status;
pub use terms::{Part, Record, Terms, Verdict};
