//! Why nothing was measured.

use std::io;

use crate::machine::THP;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// There is no such core, or this process may not use it.
    #[error("core {core} cannot be used: there are {cores:?}")]
    Core {
        /// The core that was asked for.
        core: usize,
        /// Those that may be used.
        cores: Vec<usize>,
    },
    /// What is measured does not fit into memory.
    #[error("{wanted} MiB of memory are needed and {available} MiB can be had: free some")]
    Memory {
        /// MiB that are needed.
        wanted: u64,
        /// MiB that can be had.
        available: u64,
    },
    /// Lines cannot be written back on this CPU.
    #[error("no instruction is known that writes a line back on this kind of CPU")]
    NoFlush,
    /// The system gives other pages than those that are measured.
    #[error("the system gives {0} pages whatever is asked for: {THP}")]
    Pages(&'static str),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
}
