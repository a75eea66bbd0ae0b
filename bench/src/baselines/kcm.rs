//! KCM: the kernel cuts TCP streams into messages, by a program that the user loads
//! (Documentation/networking/kcm.rst).
//!
//! The probe is the real one; the server is not built: it takes a BPF program that finds the end of
//! an HTTP request, and code that no kernel at hand could run would be a claim, not a comparison.

use std::convert::Infallible;

use rustix::net::{AddressFamily, SocketType, socket};

use super::Start;
use crate::cli::Failure;

/// Returns why there is nothing to measure.
pub(super) fn unavailable() -> Option<String> {
    let family = AddressFamily::from_raw(AF_KCM);
    Some(match socket(family, SocketType::SEQPACKET, None) {
        Ok(_) => "not built: it needs a BPF parser of HTTP, which was never run".into(),
        Err(error) => format!("this kernel has no AF_KCM (CONFIG_AF_KCM): {error}"),
    })
}

pub(super) fn serve(_start: Start) -> Result<Infallible, Failure> {
    Err(unavailable().unwrap_or_default().into())
}

const AF_KCM: u16 = 41;
