//! How files look: source files, manifests, README.md.

use super::{
    Finding,
    source::{Kind, Source, words},
};

const LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 100;

/// Finds source files that are too long or too wide, not ASCII, without a head, or unfinished.
pub(super) fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |at, what: &str| findings.push(Finding::at(source, at, what));
    if !source.text.starts_with("//!") {
        add(0, "does not start with `//!`");
    }
    if source.text.lines().count() > LINES_MAX {
        add(0, "over 600 lines: is there a second job in it?");
    }
    let mut at = 0;
    for line in source.text.split_inclusive('\n') {
        if !line.is_ascii() {
            add(at, "not ASCII");
        }
        if line.trim_end().chars().count() > COLUMNS_MAX {
            add(at, "over 100 columns");
        }
        at += line.len();
    }
    let code = source.code();
    for mark in ["todo!", "unimplemented!", "#[ignore"] {
        for (at, _) in code.match_indices(mark) {
            add(at, "unfinished");
        }
    }
    let comments = source.only(&[Kind::Comment]);
    for (at, _) in words(&comments).filter(|(_, word)| ["FIXME", "XXX"].contains(word)) {
        add(at, "unfinished");
    }
    findings
}

/// Finds manifests of members without the fields that all have in common.
pub(super) fn check_manifest(path: &str, text: &str) -> Vec<Finding> {
    const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut wanted: Vec<String> =
        INHERITED.iter().map(|field| format!("{field}.workspace = true")).collect();
    wanted.retain(|line| !lines.contains(&line.as_str()));
    if !lines.iter().any(|line| line.starts_with("description = ")) {
        wanted.push("description = \"...\"".to_owned());
    }
    if !lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"]) {
        wanted.push("[lints] workspace = true".to_owned());
    }
    wanted.into_iter().map(|line| Finding::page(path, format!("without `{line}`"))).collect()
}

/// Finds a README whose first block of code is not how to run and how to test.
pub(super) fn check_readme(text: &str) -> Vec<Finding> {
    let block = text.split("```").nth(1).unwrap_or_default();
    let has = |command: &str| block.lines().any(|line| line.starts_with(command));
    ["cargo run --release -- serve", "cargo test"]
        .into_iter()
        .filter(|command| !has(command))
        .map(|command| format!("the first block of code is without `{command}`"))
        .map(|what| Finding::page("README.md", what))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> usize {
        check_source(&Source::new("crates/a/src/b.rs", text)).len()
    }

    #[test]
    fn a_plain_file_passes() {
        assert_eq!(source("//! What.\n\n// Why.\nfn a() { let b = \"todo! FIXME\"; }\n"), 0);
    }

    /// Each is one of the things that a reader should never meet.
    #[test]
    fn each_fault_of_a_file_is_found() {
        for bad in [
            "fn a() {}\n".to_owned(),
            "//! What.\n".repeat(601),
            format!("//! {}\n", "x".repeat(97)),
            "//! Caf\u{e9}.\n".to_owned(),
            "//! A.\nfn a() { todo!() }\n".to_owned(),
            "//! A.\nfn a() { unimplemented!() }\n".to_owned(),
            "//! A.\n#[ignore = \"slow\"]\nfn a() {}\n".to_owned(),
            "//! A.\n// FIXME later\n".to_owned(),
            "//! A.\n// XXX\n".to_owned(),
        ] {
            assert_eq!(source(&bad), 1, "{}", &bad[..bad.len().min(60)]);
        }
    }

    const MANIFEST: &str = "\
[package]
name = \"impasto-a\"
description = \"A\"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true

[lints]
workspace = true
";

    /// A crate without `[lints]` is a crate without lints.
    #[test]
    fn each_missing_field_of_a_manifest_is_found() {
        assert_eq!(check_manifest("a", MANIFEST).len(), 0);
        for field in
            ["version.w", "edition", "rust-version", "license", "publish", "descr", "[lints"]
        {
            let lines = MANIFEST.lines().filter(|line| !line.starts_with(field));
            let without: String = lines.map(|line| format!("{line}\n")).collect();
            assert_eq!(check_manifest("a", &without).len(), 1, "{field}");
        }
    }

    #[test]
    fn readme_starts_with_the_two_commands() {
        let good = "# A\n```sh\ncargo run --release -- serve   # why\ncargo test\n```\n";
        assert_eq!(check_readme(good).len(), 0);
        assert_eq!(check_readme("# A\n```\ncargo test\n```\n").len(), 1);
        assert_eq!(check_readme("# A\n").len(), 2);
    }
}
