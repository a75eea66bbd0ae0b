//! What the crash checker rests on: the store reads no clock and does no I/O, and nothing above the
//! seams is compiled differently for tests.

use super::{
    Finding,
    source::{Source, words},
};

/// Crates whose code is the same in the crash checker and in production.
const SAME_CODE: [&str; 4] = ["media", "store", "server", "ring"];

/// Paths that the store may not name, nor anything below them.
const OUTSIDE: [&str; 8] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
];

/// Finds clocks and I/O in the store. `std::io`'s error types are values and pass.
pub(super) fn check_store(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("crates/store/src/") {
        return Vec::new();
    }
    let tests = source.test_items();
    let is_test = |at: &usize| source.is_tests() || tests.iter().any(|item| item.contains(at));
    let code = source.code();
    let mut findings = Vec::new();
    for (at, path) in paths(&code) {
        let outside = OUTSIDE.iter().any(|o| path == *o || path.starts_with(&format!("{o}::")));
        let is_value = ["std::io::Error", "std::io::ErrorKind"].contains(&path.as_str());
        // Tests take their seed from the environment; code takes nothing from it.
        let seed = path.starts_with("std::env") && is_test(&at);
        if outside && !is_value && !seed {
            findings.push(Finding::at(source, at, format!("the store does no `{path}`")));
        }
    }
    for (at, word) in words(&code).filter(|(_, w)| ["Instant", "SystemTime"].contains(w)) {
        findings.push(Finding::at(source, at, format!("the store reads no clock: `{word}`")));
    }
    findings
}

/// Returns each path that starts with `std::`, with groups of a `use` taken apart.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "std") {
        let mut tree = Tree { rest: &code[at + "std".len()..], paths: Vec::new() };
        tree.follow("std");
        found.extend(tree.paths.into_iter().filter(|path| path != "std").map(|path| (at, path)));
    }
    found
}

/// The tree of a `use`, or a plain path, from behind its first name.
struct Tree<'a> {
    rest: &'a str,
    paths: Vec<String>,
}

impl Tree<'_> {
    /// Adds every path that starts with `prefix` and goes on here.
    fn follow(&mut self, prefix: &str) {
        if !self.eat("::") {
            self.paths.push(prefix.to_owned());
        } else if self.eat("{") {
            while !self.eat("}") && !self.rest.is_empty() {
                self.name(prefix);
                // Over `as name`.
                self.rest = self.rest.trim_start_matches(|c| c != ',' && c != '}');
                self.eat(",");
            }
        } else {
            self.name(prefix);
        }
    }

    fn name(&mut self, prefix: &str) {
        let tail = self.rest.trim_start();
        let end = tail.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tail.len());
        self.rest = &tail[end..];
        match &tail[..end] {
            // `*`, `<` and `self` add nothing to the path.
            "" | "self" => self.paths.push(prefix.to_owned()),
            name => self.follow(&format!("{prefix}::{name}")),
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.trim_start().strip_prefix(token) else {
            return false;
        };
        self.rest = rest;
        true
    }
}

/// Finds `cfg` on `test` that is not the `mod tests` which ends the file.
pub(super) fn check_same_code(source: &Source) -> Vec<Finding> {
    let is_src = source.path.contains("/src/");
    if !is_src || source.is_tests() || !SAME_CODE.iter().any(|name| source.is_in(name)) {
        return Vec::new();
    }
    let code = source.code();
    let last = source.test_items().into_iter().last().filter(|item| {
        let mut words = words(&code[item.clone()]).map(|(_, word)| word);
        let is_module = words.by_ref().any(|word| word == "mod") && words.next() == Some("tests");
        is_module && code[item.end..].trim().is_empty()
    });
    let mut findings = Vec::new();
    for (at, word) in words(&code) {
        let in_last = last.as_ref().is_some_and(|item| item.contains(&at));
        if ["cfg", "cfg_attr"].contains(&word) && !in_last && names_test(&code[at + word.len()..]) {
            let what = "`cfg` on `test` above the seams: only a `mod tests` that ends the file";
            findings.push(Finding::at(source, at, what));
        }
    }
    findings
}

/// Returns true if the parentheses that open at the start of `rest`, after a `!`, name `test`.
fn names_test(rest: &str) -> bool {
    let rest = rest.trim_start_matches(['!', ' ']);
    let Some(inner) = rest.strip_prefix('(') else {
        return false;
    };
    let mut depth = 1_u32;
    let end = inner.find(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    words(&inner[..end.unwrap_or(inner.len())]).any(|(_, word)| word == "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(text: &str) -> usize {
        check_store(&Source::new("crates/store/src/a.rs", text)).len()
    }

    /// A clock or a file in the store, and a run of the crash checker is not repeatable.
    #[test]
    fn clocks_and_io_are_found_however_they_are_named() {
        for bad in [
            "use std::time::Duration;",
            "use std::{fmt, fs};",
            "use std::{collections::BTreeMap, io::{self, Write as W}, fmt};",
            "use std::{fmt::{self, Debug}, net};",
            "fn a() { std::thread::yield_now() }",
            "fn a(now: Instant) {}",
            "use std::\n    io::Read;",
            "use std::io;",
            "use std::env;",
        ] {
            assert_eq!(
                store(bad),
                if bad.contains("self") && bad.contains("io") { 2 } else { 1 },
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_neither_passes() {
        for good in [
            "use std::{collections::{BTreeMap, btree_map::Entry}, fmt, ops::Range as R};",
            "use std::io::Error;\n// std::fs\nlet a = \"std::fs\";",
            "fn a() { std::mem::take(b) }",
            "#[cfg(test)] mod tests { fn a() { std::env::var(B) } }",
        ] {
            assert_eq!(store(good), 0, "{good}");
        }
        let elsewhere = Source::new("crates/server/src/a.rs", "use std::time::Instant;");
        assert!(check_store(&elsewhere).is_empty());
    }

    fn same(path: &str, text: &str) -> usize {
        check_same_code(&Source::new(path, text)).len()
    }

    /// With a branch on `test` the crash checker runs a program that no user runs.
    #[test]
    fn a_branch_on_test_above_the_seams_is_found() {
        for bad in [
            "#[cfg(not(test))] fn a() {}",
            "fn a() { if cfg!(test) {} }",
            "#[cfg(all(unix, not(test)))] fn a() {}",
            "#[cfg_attr(test, derive(Debug))] struct A;",
            "#[cfg(test)] fn a() {}",
            "#[cfg(test)] mod tests {} fn a() {}",
            "#[cfg(test)] mod helpers {}",
        ] {
            assert_eq!(same("crates/ring/src/a.rs", bad), 1, "{bad}");
        }
    }

    #[test]
    fn a_module_of_tests_at_the_end_passes() {
        let good = "#[cfg(unix)] fn a() {}\n#[cfg(test)]\nmod tests { #[cfg(test)] fn b() {} }\n";
        assert_eq!(same("crates/store/src/a.rs", good), 0);
        assert_eq!(same("crates/store/src/a.rs", "#[cfg(test)]\nmod tests;\n"), 0);
        assert_eq!(same("crates/store/src/a/tests.rs", "fn a() { cfg!(test); }"), 0);
        assert_eq!(same("crates/sim/src/a.rs", "#[cfg(not(test))] fn a() {}"), 0);
    }
}
