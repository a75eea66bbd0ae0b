//! `impasto budget`: what it says, and to whom. No figure is checked.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use common::{impasto, place};
use serde_json::Value;

fn run(args: &[&str]) -> (i32, String, String) {
    let output = impasto(&["budget"]).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A typo must not become a figure for another line.
#[test]
fn bad_words_are_refused_with_good_ones() {
    for (args, hint) in [
        (["--rate", "fast"], "like 10G, 100G or 1T"),
        (["--rate", "100"], "like 10G, 100G or 1T"),
        (["--rate", "0G"], "from 1M to 1000T"),
        (["--frame", "64"], "84 to 9038 bytes on the wire"),
        (["--frame", "big"], "84 to 9038 bytes on the wire"),
        (["--working-set", "1KiB"], "from 1MiB to 64GiB"),
        (["--working-set", "much"], "64MiB"),
    ] {
        let (code, out, err) = run(&args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(hint), "{args:?}: {err}");
    }
    let (code, _, err) = run(&["--core", "1000"]);
    assert_eq!(code, 1);
    assert!(err.contains("core 1000 cannot be used: there are [0"), "{err}");
}

/// What scripts read: the names of the fields, and what belongs together.
#[test]
fn json_has_machine_probes_paths_and_lines() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    let args = ["--json", "--quick", "--working-set", "1MiB", "--rate", "25G", "--frame", "600"];
    let (code, out, err) = run(&[&args[..], &["--dir", data]].concat());
    assert_eq!(code, 0, "{err}");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["machine"]["working_set_bytes"], 1 << 20);
    assert_eq!(said["debug_build"], cfg!(debug_assertions));
    assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
    assert!(said["command"].as_str().unwrap().contains("budget --json --quick"), "{said}");
    assert!(said["missing"].as_array().unwrap().is_empty(), "{said}");
    let probes = said["probes"].as_array().unwrap();
    let rows: Vec<&Value> =
        probes.iter().flat_map(|group| group["rows"].as_array().unwrap()).collect();
    for key in ["cache-miss", "lock", "system-call", "copy-all", "checksum-1538", "append-commit"] {
        let row = rows.iter().find(|row| row["key"] == key).unwrap();
        assert!(row["figure"]["median"].as_f64().unwrap() >= 0.0, "{row}");
        assert!(row["unit"] == "ns" || row["unit"] == "GB/s", "{row}");
    }
    let paths = said["paths"].as_array().unwrap();
    // The smallest, the one asked for, the full one; cold and warm.
    let frames: Vec<u64> = paths.iter().map(|path| path["frame"].as_u64().unwrap()).collect();
    assert_eq!(frames, [84, 84, 600, 600, 1538, 1538]);
    let lines = said["lines"].as_array().unwrap();
    let asked: Vec<&Value> =
        lines.iter().filter(|line| line["frame"] == 600 && line["rate"] == 25e9).collect();
    assert_eq!(asked.len(), 1);
    assert!((asked[0]["packet_ns"].as_f64().unwrap() - 192.0).abs() < 1e-6);
    assert_eq!(lines.len(), 3 * 6);
    assert!(!said["assumptions"].as_array().unwrap().is_empty());
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "a file is left");
}

/// The table of a build that is not optimised would be believed.
#[test]
fn a_table_comes_out_and_a_debug_build_says_what_it_is_worth() {
    let (code, out, err) = run(&["--quick", "--working-set", "1MiB", "--dir", "/nowhere"]);
    assert_eq!(code, 0, "{err}");
    for part in ["cache miss", "32 ns", "our path", "100 Gb/s", "1 Tb/s", "assumptions"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let widest = out.lines().map(str::len).max();
    assert!(widest.is_some_and(|columns| columns <= 120), "{widest:?}: {out}");
    assert!(out.contains("No such file"), "what cannot be measured says why: {out}");
    assert_eq!(err.contains("worthless"), cfg!(debug_assertions), "{err}");
}

/// Memory that is short would end the process in the middle, and without a word; what needs less is
/// measured all the same.
#[test]
fn what_does_not_fit_into_memory_says_so_and_the_rest_goes_on() {
    let available = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = available.lines().find(|line| line.starts_with("MemAvailable:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    if kib > 48 << 20 {
        eprintln!("skipped: this machine has room for 64 GiB");
        return;
    }
    let (code, out, err) = run(&["--quick", "--working-set", "64GiB", "--dir", "/nowhere"]);
    assert_eq!(code, 0, "{err}");
    for what in ["  cache miss  ", "  read, one thread", "  1538 B, cold"] {
        let row = out.lines().find(|line| line.starts_with(what)).unwrap();
        assert!(row.contains("MiB of memory are needed"), "{row}");
    }
    let row = out.lines().find(|line| line.starts_with("  system call")).unwrap();
    assert!(row.contains(" ns "), "{row}");
}
