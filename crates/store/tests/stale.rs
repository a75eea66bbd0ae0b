//! What is written over freed space must not change what recovery finds.

mod common;

use common::Rig;
use impasto_region::{Span, layout::MediumKind};
use impasto_store::Refusal;

/// D2, D4: the bytes of a value that was trimmed may be written over as soon as the trim is
/// durable. If recovery verified them it would take the commit for one that was never acknowledged.
#[test]
fn a_trimmed_value_without_a_witness_is_not_missed() {
    for own_commit in [false, true] {
        let mut rig = Rig::new(16, MediumKind::Disk);
        rig.append("a", b"before").unwrap();
        rig.commit();
        rig.append_long("long", &[5; 100_000]).unwrap();
        rig.append("a", b"acknowledged").unwrap();
        rig.read("long", 1).unwrap();
        let body = rig.store.found()[0];
        let first = own_commit.then(|| rig.seal().unwrap());
        rig.trim("long", 2).unwrap();
        let second = rig.seal().unwrap();
        for commit in first.into_iter().chain([second]) {
            rig.persist(commit);
            rig.store.completed(commit.id, true);
        }
        rig.image.slice(body.span()).fill(9);
        let mut rig = rig.reopen().unwrap();
        assert_eq!(rig.read("a", 2).unwrap(), b"acknowledged");
        assert_eq!(rig.read("long", 1), Err(Refusal::Trimmed { first: 2 }));
    }
}

/// A segment header that was found in a cache only is hardened together with its first commit: all
/// that is acknowledged in that segment later hangs on it.
#[test]
fn a_segment_header_without_a_witness_is_hardened() {
    for with_commit in [false, true] {
        let mut rig = Rig::new(16, MediumKind::Pmem);
        rig.append("a", b"first").unwrap();
        let commit = rig.seal().unwrap();
        let head = Span::new(commit.span.at, 4096);
        let found = if with_commit { commit.span } else { head };
        let bytes = rig.frames.bytes(found).to_vec();
        rig.image.slice(found).copy_from_slice(&bytes);
        let recovered = rig.image.recover().unwrap().1;
        let covered =
            |at| recovered.unwitnessed().iter().any(|s| s.at <= at && at + 512 <= s.end());
        assert!(covered(head.at), "with its first commit: {with_commit}");
    }
}

/// Values are whatever a peer sends. One that looks like a commit at the end of all log offsets
/// must not stop a start.
#[test]
fn a_value_that_looks_like_a_commit_is_a_value() {
    for chain in [1, 2, 1 << 30, (1 << 44) - 1] {
        let mut value = vec![0; 1 << 20];
        let mut fake = Vec::new();
        fake.extend(0x544d_4349_u32.to_le_bytes());
        fake.extend(64_u32.to_le_bytes());
        fake.extend(((chain << 20) + 4096_u64).to_le_bytes());
        fake.extend([0xff; 48]);
        for at in (0..1 << 20).step_by(4096) {
            value[at..at + 64].copy_from_slice(&fake);
        }
        let mut rig = Rig::new(16, MediumKind::Disk);
        for _ in 0..4 {
            rig.append_long("a", &value).unwrap();
        }
        rig.commit();
        rig.commit();
        let mut rig = rig.reopen().unwrap();
        assert_eq!(rig.read("a", 4).unwrap(), value, "chain {chain}");
    }
}
