//! What words on the command line mean: sizes, media, addresses.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use bytesize::ByteSize;
use clap::ValueEnum;

use impasto::region::layout::Geometry;

/// `--medium`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MediumArg {
    /// pmem where it works, else disk; never shm, which has to be asked for
    Auto,
    /// an ordinary disk: acknowledged records survive a power loss
    Disk,
    /// persistent memory (a file system with DAX, or /dev/dax): they survive a power loss
    Pmem,
    /// memory (tmpfs): they survive the end of the process, NOT a power loss or a reboot
    Shm,
}

/// Parses a number of bytes, or one with a unit.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let Ok(ByteSize(bytes)) = text.parse() else {
        return Err("write it like 64MiB, 1GiB, or as a number of bytes".into());
    };
    Ok(bytes)
}

/// Parses a time: a number with a unit.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write it like 500ms, 30s or 5m";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; {FORM}"))?;
    if time > TIME_MAX { Err("at most 365d".into()) } else { Ok(time) }
}

/// Parses a time that is not zero.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time < TIME_MIN { Err("at least 100ms".into()) } else { Ok(time) }
}

const TIME_MIN: Duration = Duration::from_millis(100);
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Parses `--size`.
pub(super) fn size(text: &str) -> Result<Geometry, String> {
    let bytes = bytes(text)?;
    Geometry::try_from(bytes).map_err(|error| {
        let decimal = !text.contains(['i', 'I']) && text.contains(|c: char| c.is_alphabetic());
        let hint = if decimal { " (1GiB is 1024 times 1MiB; 1GB is 1000000000 bytes)" } else { "" };
        format!("{error}{hint}")
    })
}

/// Parses `--http`: a host or an address, and a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    const FORM: &str = "write it like 127.0.0.1:8080 or localhost:8080";
    if !text.contains(':') {
        return Err(FORM.into());
    }
    let mut found = text.to_socket_addrs().map_err(|error| format!("{error}; {FORM}"))?;
    found.next().ok_or_else(|| format!("no such host; {FORM}"))
}

/// Returns a size as it can be typed again: `64MiB`, `1GiB`.
pub(super) fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let bytes = |text| size(text).map(Geometry::region_bytes);
        for text in ["64MiB", "64 MiB", "64mib", "67108864", "65536KiB"] {
            assert_eq!(bytes(text), Ok(64 << 20), "{text}");
        }
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(size_text(1 << 30), "1GiB");
        assert_eq!(size_text(1536 << 20), "1536MiB");
    }

    /// A typo must not become a region of another size.
    #[test]
    fn other_sizes_are_refused_with_the_limits() {
        for text in ["", "big", "-1", "1GiBB", "1e9", "GiB"] {
            assert!(size(text).unwrap_err().contains("64MiB"), "{text}");
        }
        for text in ["0", "15MiB", "17825793", "17TiB", "99999999999999999999GiB"] {
            let refusal = size(text).unwrap_err();
            assert!(refusal.contains("from 16 MiB to 16 TiB"), "{text}: {refusal}");
            assert!(!refusal.contains("1GB"), "{text}: {refusal}");
        }
        assert!(size("1GB").unwrap_err().contains("1GB is 1000000000 bytes"));
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("5m"), Ok(Duration::from_secs(300)));
        assert_eq!((time("0"), some_time("500ms")), (Ok(Duration::ZERO), Ok(TIME_MIN * 5)));
        for text in ["", "5", "soon", "-1s", "99999999d", "1e9s"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(some_time("0").unwrap_err().contains("100ms"));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(address("127.0.0.1:0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(address("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert!(address("localhost:8080").unwrap().ip().is_loopback());
        for text in ["8080", "127.0.0.1", "127.0.0.1:99999", ""] {
            assert!(address(text).unwrap_err().contains("127.0.0.1:8080"), "{text}");
        }
    }
}
