//! What our own code takes for a packet whose bytes are in the cache.

use std::hint::black_box;

use impasto_region::Checksum;
use impasto_server::http;

use crate::{BudgetError, Figure, Frame, Machine, measure::Clock, path};

const COUNT: usize = 200;

/// The checksum of `bytes` bytes.
pub fn checksum(clock: Clock, times: usize, bytes: usize) -> Figure {
    let value = vec![0x5a; bytes];
    clock.each(times, COUNT, || {
        for _ in 0..COUNT {
            black_box(Checksum::of(black_box(&value)));
        }
    })
}

/// The head of an append of 1,024 bytes is parsed; the request has 1,156.
pub fn parse(clock: Clock, times: usize) -> Figure {
    let request = request();
    clock.each(times, COUNT, || {
        for _ in 0..COUNT {
            let head = http::parse(black_box(request.as_bytes()));
            assert!(matches!(black_box(&head), Ok(Some(_))), "it is whole and well-formed");
        }
    })
}

/// A record of 1,024 bytes that stay where they landed is appended and committed, 64 at a time, in
/// memory that no cache holds: the store's share of the [path].
///
/// # Errors
/// As [`path::measure`].
pub fn append_and_commit(machine: &Machine) -> Result<Figure, BudgetError> {
    let frame = Frame::in_memory(1024).expect("not the largest");
    path::append_and_commit(machine, frame)
}

/// Returns a request of 1,156 bytes, as the one that Honda et al. have published figures for.
fn request() -> String {
    let start = "POST /v1/logs/r HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1024\r\nX-Fill: ";
    let fill = 1156 - 1024 - start.len() - 4;
    format!("{start}{}\r\n\r\n{}", "x".repeat(fill), "y".repeat(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figure is quoted beside a published one: it must be of the same request.
    #[test]
    fn the_request_is_the_published_one() {
        let request = request();
        let head = http::parse(request.as_bytes()).unwrap().unwrap();
        assert_eq!((request.len(), request.len() - head.bytes), (1156, 1024));
    }
}
