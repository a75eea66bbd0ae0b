//! Why there is no io_uring, in words that say what to do.

use std::io;

use rustix::io::Errno;

/// The least Linux that has all we need, in words: `IORING_SETUP_DEFER_TASKRUN` came last.
pub const KERNEL_MIN: &str = "6.1";

/// Why a [`Uring`](crate::Uring) could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// `ENOSYS`.
    #[error(
        "this kernel offers no io_uring: it needs Linux {KERNEL_MIN} or later, built with \
         CONFIG_IO_URING, and no seccomp profile that hides it"
    )]
    NotSupported,
    /// `EPERM` or `EACCES`.
    #[error(
        "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, and in a \
         container use a seccomp profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register"
    )]
    Forbidden,
    /// An operation or flag is missing.
    #[error("this kernel's io_uring is too old: it lacks {missing}; Linux {KERNEL_MIN} has it")]
    TooOld {
        /// Its name in the kernel.
        missing: &'static str,
    },
    /// `ENOMEM`.
    #[error(
        "no memory for io_uring: raise the limit of locked memory (ulimit -l, or LimitMEMLOCK= in \
         systemd), or free memory"
    )]
    Memory,
    /// `EMFILE` or `ENFILE`.
    #[error(
        "no descriptor left for io_uring: raise the limit of open files (ulimit -n, or \
         LimitNOFILE= in systemd)"
    )]
    Descriptors,
    /// Anything else.
    #[error("io_uring could not be set up: {0}")]
    System(#[source] io::Error),
}

impl SetupError {
    /// Says what the error of `io_uring_setup` or `io_uring_register` means; `flag` is what an old
    /// kernel would not know.
    pub(crate) fn of(error: io::Error, flag: &'static str) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOSYS) => Self::NotSupported,
            Some(Errno::PERM | Errno::ACCESS) => Self::Forbidden,
            Some(Errno::INVAL) => Self::TooOld { missing: flag },
            Some(Errno::NOMEM) => Self::Memory,
            Some(Errno::MFILE | Errno::NFILE) => Self::Descriptors,
            _ => Self::System(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the text a user sees a bare "Operation not permitted" and cannot know of the sysctl.
    #[test]
    fn a_refusal_names_what_is_missing_and_what_to_do() {
        let texts = [
            (Errno::NOSYS, "CONFIG_IO_URING"),
            (Errno::PERM, "kernel.io_uring_disabled"),
            (Errno::PERM, "seccomp"),
            (Errno::INVAL, "DEFER_TASKRUN"),
            (Errno::INVAL, "6.1"),
            (Errno::NOMEM, "ulimit -l"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::IO, "os error 5"),
        ];
        for (errno, text) in texts {
            let error = SetupError::of(errno.into(), "IORING_SETUP_DEFER_TASKRUN").to_string();
            assert!(error.contains(text), "{error:?} lacks {text:?}");
        }
    }
}
