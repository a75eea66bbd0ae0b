//! The name of a log, by value: what a request keeps after its head is gone.

use std::fmt;

use impasto_store::LOG_NAME_BYTES_MAX;

/// A valid name of a log: 1 to 128 bytes of `[A-Za-z0-9._-]`, but neither `.` nor `..`, which
/// clients and proxies take for steps in a path (RFC 3986, 5.2.4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogName {
    len: u8,
    bytes: [u8; LOG_NAME_BYTES_MAX],
}

const _: () = assert!(LOG_NAME_BYTES_MAX <= u8::MAX as usize);

impl LogName {
    /// Returns `name` if it is valid.
    pub fn new(name: &str) -> Option<Self> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_step = matches!(name, "." | "..");
        if is_step || name.is_empty() || name.len() > LOG_NAME_BYTES_MAX || !name.bytes().all(valid)
        {
            return None;
        }
        let mut bytes = [0; LOG_NAME_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self { len: u8::try_from(name.len()).ok()?, bytes })
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("a name is ASCII")
    }
}

impl fmt::Debug for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// curl and browsers take `..` out of a path before they ask: nobody could read such a log.
    #[test]
    fn a_step_in_a_path_is_no_name() {
        assert!(LogName::new(".").is_none() && LogName::new("..").is_none());
        assert!(LogName::new("...").is_some() && LogName::new(".a").is_some());
    }
}
