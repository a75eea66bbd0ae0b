//! `impasto-bench breakdown`, as a user runs it.

use std::{env, fs, path::Path, process::Command};

use serde_json::Value;

/// Runs it over few and short windows, in whatever noise.
fn breakdown(dir: &Path, more: &[&str]) -> (bool, String) {
    let dir = dir.to_str().expect("a path of ours is text");
    let json = format!("{dir}/breakdown.json");
    let output = Command::new(env!("CARGO_BIN_EXE_impasto-bench"))
        .args(["breakdown", "--rounds", "1", "--window", "0.2", "--warm-up", "0"])
        .args(["--region", "16MiB", "--wait", "1000000", "--disk-dir", dir])
        .args(["--server-core", "0", "--client-core", "0", "--json", &json, "--plot", dir])
        .args(more)
        .output()
        .expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A part that is lost on its way to the report is missing from the sum. That a server charges its
/// time rightly is not seen here: what it does not charge is network.
#[test]
fn the_parts_of_a_request_are_told_and_add_up() {
    let own = env::current_exe().unwrap();
    let dir = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
    let variants = ["impasto-shm-epoll", "impasto-disk-epoll", "impasto-shm", "v1", "fdatasync"];
    let (is_done, text) = breakdown(dir.path(), &["--only", &variants.join(",")]);
    let json = fs::read(dir.path().join("breakdown.json")).unwrap_or_else(|_| panic!("{text}"));
    let json: Value = serde_json::from_slice(&json).unwrap();
    for variant in json["variants"].as_array().unwrap() {
        if let Some(why) = variant["skipped"].as_str() {
            assert!(variant["name"] == "impasto-shm", "only io_uring may be missing: {text}");
            eprintln!("skipped: {why}");
            continue;
        }
        let part = |name: &str| variant["parts"][name]["median"].as_f64().unwrap();
        for name in ["receive", "parse", "copy", "fence or sync", "reply"] {
            assert!(part(name) > 0.0, "{name}: {variant}");
        }
        // On a disk nothing is flushed.
        assert_eq!(part("flush") > 0.0, variant["medium"] == "shm", "{variant}");
        let (sum, mean) = (&variant["sum"], &variant["round_trip"]["mean"]["median"]);
        let apart = sum.as_f64().unwrap() - mean.as_f64().unwrap();
        assert!(apart.abs() < 0.01, "{variant}");
        assert!(is_done, "{text}");
    }
    for name in ["breakdown.svg", "breakdown.png", "breakdown-memory.png"] {
        assert!(dir.path().join(name).is_file(), "{name}");
    }
    for word in ["kernel", "commit", "command", "seed"] {
        assert!(!json[word].is_null() && text.contains("commit"), "{word}");
    }
}

#[test]
fn an_unknown_variant_is_answered_with_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (is_done, text) = breakdown(dir.path(), &["--only", "sham"]);
    assert!(!is_done && text.contains("no variant `sham`; there are") && text.contains("shm-poll"));
}
