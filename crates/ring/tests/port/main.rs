//! Ports, seen from both sides: what holds for every port, and what only the kernel's TCP does.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers are small"
)]

mod directed;
mod every;
mod kernel;
mod many;
mod rig;
mod several;
