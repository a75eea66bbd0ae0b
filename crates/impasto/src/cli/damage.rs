//! What is wrong with a region, named: for those who read it and for scripts.

use std::fmt;

use impasto::{
    region::{Error, Examined, layout::Superblock},
    store::{BadRecord, Corruption},
};
use serde::Serialize;

use super::Failure;

/// Exit code of a command that found damage.
pub(super) const DAMAGED: u8 = 3;

/// Why a region is not served: it is damaged.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

/// Returns true if a command was refused for damage.
pub(super) fn is_damage(failure: &Failure) -> bool {
    use Error as E;
    let found = failure.downcast_ref();
    failure.is::<Refused>()
        || matches!(found, Some(E::Damaged { .. } | E::Mixed { .. } | E::FileSize { .. }))
}

/// Something that does not verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Damage {
    pub(super) what: String,
    /// Where it is in the region's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
}

impl Damage {
    pub(super) const fn new(what: String) -> Self {
        Self { what, at: None, lsn: None, log: None, seq: None }
    }

    /// A superblock copy does not verify.
    pub(super) fn of_copy(superblock: &Superblock, copy: u64, why: impl fmt::Display) -> Self {
        let what = format!("superblock {copy} is damaged ({why}); the other one holds");
        Self { at: Some(superblock.geometry.superblock(copy).at), ..Self::new(what) }
    }

    /// The log is not what was acknowledged.
    ///
    /// # Errors
    /// If it may well be, and this version cannot read it.
    pub(super) fn of_log(corruption: &Corruption) -> Result<Self, Failure> {
        if let Corruption::Record {
            error: BadRecord::Kind { .. } | BadRecord::Flags { .. }, ..
        } = corruption
        {
            return Err(corruption.to_string().into());
        }
        let (at, lsn) = match *corruption {
            Corruption::Missing { lsn, at, .. } => (Some(at), Some(lsn)),
            Corruption::MissingSegment { lsn, .. }
            | Corruption::Record { lsn, .. }
            | Corruption::Contradiction { lsn, .. }
            | Corruption::Order { expected: lsn, .. } => (None, Some(lsn)),
            _ => (None, None),
        };
        Ok(Self { at, lsn: lsn.map(|lsn| lsn.0), ..Self::new(corruption.to_string()) })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

/// Returns the superblock that holds, or what is wrong with both; an error if the file is no region
/// that this version can look at.
pub(super) fn superblock(
    region: &Examined,
) -> Result<Result<(Superblock, Option<Damage>), Damage>, Error> {
    match region.superblock() {
        Ok((superblock, damaged)) => {
            let damaged = damaged.map(|(copy, why)| Damage::of_copy(&superblock, copy, why));
            Ok(Ok((superblock, damaged)))
        }
        Err(error @ (Error::Damaged { .. } | Error::Mixed { .. } | Error::FileSize { .. })) => {
            Ok(Err(Damage::new(error.to_string())))
        }
        Err(error) => Err(error),
    }
}
