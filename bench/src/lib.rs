//! A load generator for servers of several protocols, what Impasto is measured beside, and the
//! figures that it has to reach.
//!
//! | module | what it is |
//! |---|---|
//! | [`client`] | closed and open loops over many connections; every reply is checked |
//! | [`protocol`] | requests into bytes, replies from any pieces, of several protocols |
//! | [`outcome`] | what a load has found, errors first of all |
//! | [`usage`] | CPU time and run-queue wait of threads |
//! | [`plot`] | charts, as SVG and PNG |
//! | [`statistics`] | medians, quartiles, a seeded order |
//! | [`cli`] | the commands: `load`, `compare`, `peers`, `breakdown`, `figures`, `micro`, `check` |

#![forbid(unsafe_code)]

mod baselines;
mod bed;
mod breakdown;
mod check;
pub mod cli;
pub mod client;
mod compare;
mod connection;
mod figures;
mod lines;
mod load;
mod machine;
mod micro;
pub mod outcome;
mod part;
mod peers;
pub mod plot;
mod process;
pub mod protocol;
mod raw;
mod rounds;
mod stages;
pub mod statistics;
mod target;
pub mod usage;
