//! HTTP/1.1, as far as Impasto speaks it: heads into calls, answers into bytes.
//!
//! ```text
//! POST   /v1/logs/{log}             append the body           201
//! GET    /v1/logs/{log}/{seq}       one record                200, 404, 410
//! GET    /v1/logs/{log}             a log in numbers          200, 404
//! GET    /v1/logs                   the names of all logs     200
//! DELETE /v1/logs/{log}?before=SEQ  drop the oldest records   200, 404
//! GET    /livez, /readyz                                      200, 503
//! ```
//!
//! Nothing here knows of a connection: [`parse`] and [`Chunks`] take bytes, wherever they are;
//! answers are appended to a vector.

mod chunks;
mod head;
mod name;
pub(crate) mod reply;
mod route;

pub use chunks::{Chunks, Piece};
pub use head::{Framing, Head, parse};
pub use name::LogName;
pub use reply::{Link, Status};
pub use route::{Call, Fault};
