//! The table of parts in ARCHITECTURE.md, and what it promises: who uses whom, where `unsafe` is.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, source::Source, source::words};
use crate::Failure;

const PAGE: &str = "ARCHITECTURE.md";
const HEAD: &str = "| crate | job | unsafe | may use |";

/// Crates from elsewhere that one of ours uses alone: only `uring` talks to io_uring, only `server`
/// knows a protocol.
const OWNERS: [(&str, &str); 2] = [("io-uring", "uring"), ("httparse", "server")];

/// By crate, without `impasto-`: its normal dependencies among the crates of this workspace, and
/// among those that have an owner.
pub(super) type Edges = BTreeMap<String, BTreeSet<String>>;

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    name: String,
    /// Files below `src` in which `unsafe` may stand, with the modules beneath them.
    unsafe_files: Vec<String>,
    may_use: BTreeSet<String>,
    /// A use that the row allows need not be there: "and all it shows".
    loose: bool,
}

/// Reads the table.
pub(super) fn parts(page: &str) -> Result<Vec<Part>, Failure> {
    let rows = page.lines().skip_while(|line| *line != HEAD).skip(2);
    let mut parts: Vec<Part> = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, unsafe_files, may_use] = cells[..] else {
            return Err(format!("{PAGE}: not four cells: {row}").into());
        };
        let (may_use, loose) = match may_use.strip_suffix(" and all it shows") {
            Some(front) => (with_all_it_shows(front, &parts), true),
            None => (names(may_use), false),
        };
        parts.push(Part {
            name: name.trim_matches('`').to_owned(),
            unsafe_files: names(unsafe_files).into_iter().collect(),
            may_use,
            loose,
        });
    }
    if parts.is_empty() { Err(format!("{PAGE}: no table `{HEAD}`").into()) } else { Ok(parts) }
}

fn names(cell: &str) -> BTreeSet<String> {
    let names = cell.split(',').map(|name| name.trim().trim_matches('`'));
    names.filter(|name| !matches!(*name, "-" | "none")).map(str::to_owned).collect()
}

fn with_all_it_shows(front: &str, parts: &[Part]) -> BTreeSet<String> {
    let shown = parts.iter().filter(|part| part.name == front).flat_map(|p| p.may_use.clone());
    shown.chain([front.to_owned()]).collect()
}

/// Reads the normal dependencies of every package from `cargo metadata --no-deps`.
pub(super) fn edges(metadata: &str) -> Result<Edges, Failure> {
    let metadata: serde_json::Value = serde_json::from_str(metadata)?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut edges = Edges::new();
    for package in list(&metadata["packages"]) {
        let name = package["name"].as_str().ok_or("cargo metadata: a package without a name")?;
        let uses = list(&package["dependencies"])
            .iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|used| {
                used.starts_with("impasto") || OWNERS.iter().any(|(name, _)| used == name)
            })
            .map(short)
            .collect();
        edges.insert(short(name), uses);
    }
    Ok(edges)
}

fn short(package: &str) -> String {
    package.strip_prefix("impasto-").unwrap_or(package).to_owned()
}

/// Compares the crates with the column "may use", both ways: the page neither lags nor promises.
pub(super) fn check_edges(parts: &[Part], edges: &Edges) -> Vec<Finding> {
    let mut findings = Vec::new();
    for part in parts {
        let name = &part.name;
        let Some(uses) = edges.get(name) else {
            findings.push(Finding::page(PAGE, format!("there is no crate `{name}`")));
            continue;
        };
        let is_owned = |used: &String| OWNERS.contains(&(used.as_str(), name.as_str()));
        for used in uses.difference(&part.may_use).filter(|used| !is_owned(used)) {
            let what = format!("`{name}` uses `{used}`, and its row does not say that it may");
            findings.push(Finding::page(PAGE, what));
        }
        for unused in part.may_use.difference(uses).filter(|_| !part.loose) {
            let what = format!("`{name}` may use `{unused}` and does not: say so or drop it");
            findings.push(Finding::page(PAGE, what));
        }
    }
    // xtask is no part of the product; nothing of it may be used, and it has no row.
    let known: BTreeSet<&str> = parts.iter().map(|p| p.name.as_str()).chain(["xtask"]).collect();
    for name in edges.keys().filter(|name| !known.contains(name.as_str())) {
        findings.push(Finding::page(PAGE, format!("the crate `{name}` has no row")));
    }
    findings
}

/// Finds `unsafe` outside of the column "unsafe", and crate roots that do not forbid it.
pub(super) fn check_unsafe(parts: &[Part], source: &Source) -> Vec<Finding> {
    let code = source.code();
    let part = parts.iter().find(|part| source.is_in(&part.name));
    let allowed = part.map_or(&[][..], |part| &part.unsafe_files);
    let mut findings = Vec::new();
    if !allowed.iter().any(|file| is_file_or_beneath(&source.path, file)) {
        let uses = words(&code).filter(|(_, word)| *word == "unsafe");
        findings.extend(uses.map(|(at, _)| {
            Finding::at(source, at, "`unsafe` outside of the files that ARCHITECTURE.md names")
        }));
    }
    let is_root = ["/src/lib.rs", "/src/main.rs"].iter().any(|root| source.path.ends_with(root));
    let attribute = |word| code.contains(&format!("#![{word}(unsafe_code)]"));
    if is_root && allowed.is_empty() && !attribute("forbid") {
        findings.push(Finding::at(source, 0, "no `#![forbid(unsafe_code)]`"));
    }
    if is_root && !allowed.is_empty() && !attribute("deny") {
        findings.push(Finding::at(source, 0, "no `#![deny(unsafe_code)]`"));
    }
    findings
}

/// Returns true if `path` is the file `src/<file>` of its crate or a module beneath it.
fn is_file_or_beneath(path: &str, file: &str) -> bool {
    let Some((_, inside)) = path.split_once("/src/") else {
        return false;
    };
    let beneath = file.strip_suffix(".rs").and_then(|stem| inside.strip_prefix(stem));
    inside == file || beneath.is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
text
| crate | job | unsafe | may use |
|---|---|---|---|
| `region` | names | `frames.rs`, `flush.rs` | - |
| `store` | log | none | region |
| `server` | loop | none | store, region |
| `impasto` | facade | none | server and all it shows |

| length | where |
";

    fn uses(list: &[(&str, &[&str])]) -> Edges {
        list.iter().map(|(name, names)| ((*name).to_owned(), uses_of(names))).collect()
    }

    fn uses_of(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn good() -> Edges {
        uses(&[
            ("region", &[]),
            ("store", &["region"]),
            ("server", &["region", "store"]),
            ("impasto", &["server", "region"]),
            ("xtask", &[]),
        ])
    }

    fn said(findings: &[Finding]) -> String {
        findings.iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn a_tree_like_the_table_passes() {
        let parts = parts(TABLE).unwrap();
        assert_eq!(said(&check_edges(&parts, &good())), "");
    }

    /// One edge too many and the layers are a picture only.
    #[test]
    fn an_edge_that_no_row_allows_is_found() {
        let parts = parts(TABLE).unwrap();
        let mut edges = good();
        edges.insert("region".to_owned(), ["store".to_owned()].into());
        assert!(said(&check_edges(&parts, &edges)).contains("`region` uses `store`"));
    }

    /// A second ring, or a protocol below the server, needs no edge between our crates.
    #[test]
    fn what_has_an_owner_is_used_by_no_other() {
        let parts = parts(TABLE).unwrap();
        let mut edges = good();
        edges.insert("server".to_owned(), uses_of(&["region", "store", "httparse"]));
        assert_eq!(said(&check_edges(&parts, &edges)), "");
        edges.insert("region".to_owned(), uses_of(&["io-uring"]));
        assert!(said(&check_edges(&parts, &edges)).contains("`region` uses `io-uring`"));
    }

    #[test]
    fn a_stale_row_and_a_missing_row_are_found() {
        let parts = parts(TABLE).unwrap();
        let mut edges = good();
        edges.insert("store".to_owned(), [].into());
        edges.insert("bench".to_owned(), [].into());
        edges.remove("impasto");
        let said = said(&check_edges(&parts, &edges));
        assert!(said.contains("`store` may use `region` and does not"), "{said}");
        assert!(said.contains("the crate `bench` has no row"), "{said}");
        assert!(said.contains("there is no crate `impasto`"), "{said}");
    }

    #[test]
    fn development_dependencies_are_free() {
        let metadata = r#"{"packages": [{"name": "impasto-ring", "dependencies": [
            {"name": "impasto-region", "kind": null}, {"name": "impasto-sim", "kind": "dev"},
            {"name": "impasto-uring", "kind": "build"}, {"name": "socket2", "kind": null},
            {"name": "io-uring", "kind": null}]}]}"#;
        assert_eq!(edges(metadata).unwrap(), uses(&[("ring", &["io-uring", "region", "uring"])]));
    }

    #[test]
    fn a_page_without_the_table_is_refused() {
        assert!(parts("| a | b |").is_err());
    }

    fn unsafe_in(path: &str, text: &str) -> String {
        said(&check_unsafe(&parts(TABLE).unwrap(), &Source::new(path, text)))
    }

    #[test]
    fn unsafe_stands_only_where_the_table_has_it() {
        let text = "fn a() { unsafe { b() } }";
        assert_eq!(unsafe_in("crates/region/src/frames.rs", text), "");
        assert_eq!(unsafe_in("crates/region/src/flush/x86.rs", text), "");
        for path in ["crates/region/src/id.rs", "crates/store/src/frames.rs", "xtask/src/a.rs"] {
            assert!(unsafe_in(path, text).contains("`unsafe` outside"), "{path}");
        }
        assert_eq!(unsafe_in("crates/store/src/a.rs", "// unsafe\nlet a = \"unsafe\";"), "");
    }

    #[test]
    fn roots_forbid_or_deny_unsafe() {
        assert_eq!(unsafe_in("crates/store/src/lib.rs", "#![forbid(unsafe_code)]"), "");
        assert_eq!(unsafe_in("crates/region/src/lib.rs", "#![deny(unsafe_code)]"), "");
        assert!(unsafe_in("crates/store/src/lib.rs", "#![deny(unsafe_code)]").contains("forbid"));
        let comment = "// #![forbid(unsafe_code)]";
        assert!(unsafe_in("crates/store/src/lib.rs", comment).contains("forbid"));
        assert!(unsafe_in("crates/region/src/lib.rs", "mod a;").contains("deny"));
    }
}
