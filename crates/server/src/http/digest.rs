//! Digests of content (RFC 9530), as it is sent.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256, Sha512};

use super::{Extra, Fault, Problem, Status};

/// An algorithm that is known here: those that RFC 9530 calls active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `sha-256`
    Sha256,
    /// `sha-512`
    Sha512,
}

const SYNTAX: Fault = Fault::new(
    Status::BadRequest,
    "Content-Digest is a dictionary of byte sequences: sha-256=:BASE64:, of the length that the \
     algorithm has",
)
.kind(Problem::Digest)
.with(Extra::Algorithms);
const UNKNOWN: Fault = Fault::new(
    Status::BadRequest,
    "no algorithm of Content-Digest is known here, so nothing would be verified: use sha-256 or \
     sha-512",
)
.kind(Problem::Digest)
.with(Extra::Algorithms);
/// The content is not what its digest says.
pub(crate) const MISMATCH: Fault = Fault::new(
    Status::BadRequest,
    "the content is not what Content-Digest says: nothing was appended",
)
.kind(Problem::Digest)
.with(Extra::Algorithms);

impl Algorithm {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|known| known.name() == name)
    }

    /// Returns the known one that a `Want-Content-Digest` likes best; `None` if it wants none.
    pub(super) fn preferred(value: &[u8]) -> Option<Self> {
        let mut best = (0, None);
        for member in dictionary(value) {
            let (name, value) = member.ok()?;
            let weight: u8 = value.parse().ok().filter(|weight| *weight <= 10)?;
            if let Some(known) = Self::named(name)
                && weight > best.0
            {
                best = (weight, Some(known));
            }
        }
        best.1
    }
}

/// What content has to be, by one algorithm or both.
#[derive(Clone, PartialEq, Eq)]
pub struct Expected {
    sha256: Option<[u8; 32]>,
    sha512: Option<[u8; 64]>,
}

impl Expected {
    /// Reads all `Content-Digest` fields of a request.
    ///
    /// # Errors
    /// They cannot be read, or there is nothing in them that can be verified: silence would pass
    /// for a verification.
    pub(super) fn read<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Result<Self, Fault> {
        let mut expected = Self { sha256: None, sha512: None };
        for member in fields.flat_map(dictionary) {
            let (name, value) = member.map_err(|Unreadable| SYNTAX)?;
            // RFC 8941, 3.2: of two with one name the last one counts.
            match Algorithm::named(name) {
                Some(Algorithm::Sha256) => expected.sha256 = Some(sequence(value)?),
                Some(Algorithm::Sha512) => expected.sha512 = Some(sequence(value)?),
                None => {}
            }
        }
        if expected.sha256.is_none() && expected.sha512.is_none() {
            return Err(UNKNOWN);
        }
        Ok(expected)
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected")
            .field("sha256", &self.sha256.is_some())
            .field("sha512", &self.sha512.is_some())
            .finish()
    }
}

/// Verifies content as it comes.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    expected: Expected,
    sha256: Sha256,
    sha512: Sha512,
}

impl Verifier {
    pub(crate) fn new(expected: Expected) -> Self {
        Self { expected, sha256: Sha256::new(), sha512: Sha512::new() }
    }

    /// Adds the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if self.expected.sha256.is_some() {
            self.sha256.update(bytes);
        }
        if self.expected.sha512.is_some() {
            self.sha512.update(bytes);
        }
    }

    /// Returns true if the bytes are those that were expected.
    pub(crate) fn holds(self) -> bool {
        let Self { expected, sha256, sha512 } = self;
        expected.sha256.is_none_or(|expected| sha256.finalize()[..] == expected)
            && expected.sha512.is_none_or(|expected| sha512.finalize()[..] == expected)
    }
}

/// Returns the digest of what consists of `pieces`, in base64.
pub(crate) fn digest_of<'a>(
    algorithm: Algorithm,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> String {
    match algorithm {
        Algorithm::Sha256 => STANDARD
            .encode(pieces.fold(Sha256::new(), |sum, piece| sum.chain_update(piece)).finalize()),
        Algorithm::Sha512 => STANDARD
            .encode(pieces.fold(Sha512::new(), |sum, piece| sum.chain_update(piece)).finalize()),
    }
}

/// A dictionary that is none.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

/// Returns the members of a dictionary (RFC 8941, 3.2), as far as digests need it: each has a value
/// that is one item, without a comma or a semicolon in it. Parameters are skipped.
fn dictionary(value: &[u8]) -> impl Iterator<Item = Result<(&str, &str), Unreadable>> {
    let is_key = |key: &str| {
        let starts = key.starts_with(|first: char| first.is_ascii_lowercase() || first == '*');
        let goes_on = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*');
        starts && key.bytes().all(goes_on)
    };
    value.split(|byte| *byte == b',').map(move |member| {
        let member = std::str::from_utf8(member).map_err(|_| Unreadable)?.trim_ascii();
        let (key, value) = member.split_once('=').ok_or(Unreadable)?;
        let value = value.split(';').next().unwrap_or_default();
        if is_key(key) && !value.is_empty() { Ok((key, value)) } else { Err(Unreadable) }
    })
}

/// Returns the bytes of a byte sequence (RFC 8941, 3.3.5), which have to be `N`.
fn sequence<const N: usize>(value: &str) -> Result<[u8; N], Fault> {
    let base64 = value.strip_prefix(':').and_then(|value| value.strip_suffix(':'));
    let mut bytes = [0; 66];
    let len = base64.and_then(|base64| STANDARD.decode_slice(base64, &mut bytes).ok());
    let bytes = len.and_then(|len| bytes.get(..len)?.try_into().ok());
    bytes.ok_or(SYNTAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    const HELLO_512: &str = "sha-512=:m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/\
                             3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==:";

    fn verified(fields: &[&str], content: &[u8]) -> Result<bool, Fault> {
        let expected = Expected::read(fields.iter().map(|field| field.as_bytes()))?;
        let mut verifier = Verifier::new(expected);
        content.chunks(3).for_each(|piece| verifier.update(piece));
        Ok(verifier.holds())
    }

    /// The values are those of `sha256sum` and `sha512sum`.
    #[test]
    fn content_is_verified_by_every_known_algorithm() {
        for field in [
            HELLO,
            HELLO_512,
            &format!("{HELLO}, {HELLO_512}"),
            &format!("md5=:AAAA:,{HELLO}"),
            &format!("{HELLO};p=1"),
            &format!("sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:, {HELLO}"),
        ] {
            assert_eq!(verified(&[field], b"hello"), Ok(true), "{field}");
            assert_eq!(verified(&[field], b"hellp"), Ok(false), "{field}");
        }
        assert_eq!(verified(&[HELLO, HELLO_512], b"hello"), Ok(true));
        let other = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
        assert_eq!(verified(&[other, HELLO_512], b"hello"), Ok(false));
    }

    /// What is not understood would be taken for verified.
    #[test]
    fn a_digest_that_cannot_be_told_is_refused() {
        for field in [
            "",
            "sha-256",
            "sha-256=",
            "sha-256=::",
            "sha-256=:AAAA:",
            "sha-256=LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
            "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ:",
            "SHA-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:",
            "sha-256=:LPJNul_wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:",
            &format!("{HELLO},"),
            &format!("{HELLO},,{HELLO_512}"),
            "\u{e4}",
        ] {
            assert_eq!(verified(&[field], b"hello"), Err(SYNTAX), "{field}");
        }
        assert_eq!(verified(&["md5=:AAAA:"], b"hello"), Err(UNKNOWN));
    }

    #[test]
    fn the_digest_with_the_highest_weight_is_sent() {
        let preferred = |value: &str| Algorithm::preferred(value.as_bytes());
        assert_eq!(preferred("sha-512=3, sha-256=10, unixsum=1"), Some(Algorithm::Sha256));
        assert_eq!(preferred("sha-512=3, sha-256=0"), Some(Algorithm::Sha512));
        for none in ["sha-256=0", "md5=5", "sha-256", "sha-256=11", "sha-256=-1", ""] {
            assert_eq!(preferred(none), None, "{none}");
        }
        let pieces = [&b"hel"[..], b"lo"];
        assert_eq!(
            digest_of(Algorithm::Sha256, pieces.into_iter()),
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
        );
    }
}
