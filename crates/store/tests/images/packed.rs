//! Images, packed: most of a small region is runs of one byte.
#![allow(dead_code, reason = "one test packs, others unpack")]

/// Runs of one byte that are shorter stand among others.
const RUN_BYTES_MIN: usize = 16;

/// Packs runs: `u32` bytes as they are, those, `u32` times one byte, that byte; and again.
pub(crate) fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        let run = bytes[at..].iter().take_while(|byte| **byte == bytes[at]).count();
        if run >= RUN_BYTES_MIN || at + run == bytes.len() {
            out.extend(u32::try_from(at - from).unwrap().to_le_bytes());
            out.extend(&bytes[from..at]);
            out.extend(u32::try_from(run).unwrap().to_le_bytes());
            out.push(bytes[at]);
            from = at + run;
        }
        at += run;
    }
    out
}

pub(crate) fn unpacked(mut packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !packed.is_empty() {
        out.extend(take_counted(&mut packed));
        let (count, rest) = packed.split_at(4);
        let run = u32::from_le_bytes(count.try_into().unwrap());
        out.resize(out.len() + run as usize, rest[0]);
        packed = &rest[1..];
    }
    out
}

fn take_counted<'a>(packed: &mut &'a [u8]) -> &'a [u8] {
    let (count, rest) = packed.split_at(4);
    let (bytes, rest) = rest.split_at(u32::from_le_bytes(count.try_into().unwrap()) as usize);
    *packed = rest;
    bytes
}
