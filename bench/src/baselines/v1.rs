//! V1, the status quo: epoll, one read for each ready connection, and for each request a copy into
//! the mapped region, a flush, a fence and a write.
//!
//! ```text
//! append: copy -> flush -> fence -> write, for each request
//! ```
//!
//! It is what PASTE compares itself with (Honda et al., netdev 2.2): a server that was written for
//! a disk, with the disk taken away. All it does is what [`v1b`](super::v1b) does, per request.

use std::convert::Infallible;

use super::{Start, v1b};
use crate::cli::Failure;

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    v1b::serve::<true>(start)
}
