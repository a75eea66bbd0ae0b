//! docs/format.md ends with a table of hashes of the code that it describes, so that neither is
//! changed alone.

use super::{
    Finding,
    source::{Kind, Source},
};

const PAGE: &str = "docs/format.md";
const HEAD: &str = "| file | hash |\n|---|---|\n";
/// The code of the format; with a `/` at the end, every file below.
const FILES: [&str; 5] = [
    "crates/region/src/id.rs",
    "crates/region/src/layout.rs",
    "crates/region/src/layout/",
    "crates/store/src/format.rs",
    "crates/store/src/format/",
];

/// Returns the table as it should be.
pub(super) fn table(sources: &[Source]) -> String {
    let is_format = |source: &&Source| {
        let path = source.path.as_str();
        let hit = |file: &str| path == file || file.ends_with('/') && path.starts_with(file);
        FILES.into_iter().any(hit) && !source.is_tests()
    };
    let mut table = HEAD.to_owned();
    for source in sources.iter().filter(is_format) {
        table += &format!("| `{}` | {:016x} |\n", source.path, hash(source));
    }
    table
}

/// Compares the page with the code.
pub(super) fn check(page: &str, table: &str) -> Vec<Finding> {
    let (_, there) = split(page);
    let missing = table.lines().filter(|row| !there.lines().any(|line| line == *row));
    let stale = there.lines().filter(|line| !table.lines().any(|row| row == *line));
    let missing = missing.map(|row| format!("the code has changed; when this page says so: {row}"));
    let stale = stale.filter(|line| !line.is_empty()).map(|line| format!("no such code: {line}"));
    missing.chain(stale).map(|what| Finding::page(PAGE, what)).collect()
}

/// Returns the page with `table` at its end.
pub(super) fn bless(page: &str, table: &str) -> String {
    let (text, _) = split(page);
    format!("{}\n\n{table}", text.trim_end())
}

fn split(page: &str) -> (&str, &str) {
    page.split_at(page.find(HEAD).unwrap_or(page.len()))
}

/// FNV-1a, 64 bits, of what the compiler makes the format of: without comments, tests and space.
fn hash(source: &Source) -> u64 {
    let tests = source.test_items();
    let text = source.only(&[Kind::Code, Kind::Literal]);
    let bytes = text.bytes().enumerate();
    let kept = bytes.filter(|(at, byte)| {
        !byte.is_ascii_whitespace() && !tests.iter().any(|item| item.contains(at))
    });
    kept.fold(0xcbf2_9ce4_8422_2325, |hash, (_, byte)| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "crates/region/src/id.rs";

    fn table_of(text: &str) -> String {
        table(&[Source::new(PATH, text), Source::new("crates/region/src/pool.rs", "fn a() {}")])
    }

    /// Else the page describes last month's bytes.
    #[test]
    fn code_that_has_changed_is_found_until_it_is_blessed() {
        let page = bless("# Format\n\ntext\n", &table_of("const A: u32 = 1;"));
        assert!(check(&page, &table_of("const A: u32 = 1;")).is_empty());
        let changed = table_of("const A: u32 = 2;");
        assert_eq!(check(&page, &changed).len(), 2, "one row to put there, one to drop");
        let page = bless(&page, &changed);
        assert!(check(&page, &changed).is_empty());
        assert_eq!(page.matches("| file |").count(), 1);
        assert!(page.starts_with("# Format\n\ntext\n\n|"));
    }

    #[test]
    fn a_page_without_the_table_is_found() {
        assert!(!check("# Format\n", &table_of("const A: u32 = 1;")).is_empty());
    }

    #[test]
    fn space_comments_and_tests_are_not_the_format() {
        let plain = table_of("const A: u32 = 1;");
        assert_eq!(plain, table_of("// why\nconst A:\n    u32 = 1;\n#[cfg(test)]\nmod tests {}\n"));
        assert_ne!(table_of("const A: &str = \"b\";"), table_of("const A: &str = \"c\";"));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let a = hash(&Source::new(PATH, "a")); // the published test vector for "a"
        assert_eq!(a, 0xaf63_dc4c_8601_ec8c);
    }
}
