//! Each durability rule that code cites is cited by a test (`D3` in a comment, or in a name); each
//! test that docs/durability.md names is there.

use std::collections::BTreeMap;

use super::{
    Finding,
    source::{Kind, Source, words},
};

const PAGE: &str = "docs/durability.md";
const RULES: std::ops::RangeInclusive<u32> = 1..=10;

/// Finds rules without a test, and rules that do not exist.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut cited: BTreeMap<u32, Finding> = BTreeMap::new();
    let mut tested = Vec::new();
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("crates/")) {
        let tests = source.test_items();
        let is_test = |at: usize| source.is_tests() || tests.iter().any(|item| item.contains(&at));
        let comments = source.only(&[Kind::Comment]);
        for (at, rule) in words(&comments).filter_map(|(at, word)| Some((at, rule(word, 'D')?))) {
            if !RULES.contains(&rule) {
                findings.push(Finding::at(source, at, format!("there is no rule D{rule}")));
            } else if is_test(at) {
                tested.push(rule);
            } else {
                let what = format!("D{rule} is cited here and by no test");
                cited.entry(rule).or_insert_with(|| Finding::at(source, at, what));
            }
        }
        let code = source.code();
        for (_, name) in words(&code).filter(|(at, _)| is_test(*at)) {
            tested.extend(name.split('_').filter_map(|part| rule(part, 'd')));
        }
    }
    findings.extend(cited.into_iter().filter(|(rule, _)| !tested.contains(rule)).map(|(_, f)| f));
    findings
}

/// Finds tests that the page names, in backticks and with three `_` or more, and that are not
/// there.
pub(super) fn check_page(page: &str, sources: &[Source]) -> Vec<Finding> {
    let names = page.split('`').skip(1).step_by(2).filter(|text| {
        let is_name =
            text.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit());
        is_name && text.matches('_').count() >= 3
    });
    let code: Vec<String> = sources.iter().map(Source::code).collect();
    let is_there = |name: &str| code.iter().any(|code| code.contains(&format!("fn {name}(")));
    let mut findings: Vec<Finding> = names
        .filter(|name| !is_there(name))
        .map(|name| Finding::page(PAGE, format!("there is no test `{name}`")))
        .collect();
    let open = page.matches("(test: ...)").count();
    if open > 0 {
        findings.push(Finding::page(PAGE, format!("{open} tests are still to be named")));
    }
    findings
}

/// Returns 3 for `D3`, if `letter` is `D`.
fn rule(word: &str, letter: char) -> Option<u32> {
    let digits = word.strip_prefix(letter)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(files: &[(&str, &str)]) -> usize {
        let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        check(&sources).len()
    }

    /// A rule that no test cites is a wish.
    #[test]
    fn a_rule_without_a_test_is_found() {
        assert_eq!(count(&[("crates/a/src/b.rs", "// D3: why\n// (D4)\nfn c() {}")]), 2);
        let string = "// D3\nfn a() {}\n#[cfg(test)]\nmod tests { const A: &str = \"D3\"; }";
        assert_eq!(count(&[("crates/a/src/b.rs", string)]), 1);
    }

    #[test]
    fn a_rule_is_tested_by_comment_or_by_name() {
        let code = ("crates/a/src/b.rs", "// D3\nfn c() {}");
        assert_eq!(count(&[code, ("crates/d/tests/e.rs", "// D3: why")]), 0);
        assert_eq!(count(&[code, ("crates/d/tests/e.rs", "fn d3_replies_wait() {}")]), 0);
        let module = "// D3\nfn a() {}\n#[cfg(test)]\nmod tests { /* D3 */ }";
        assert_eq!(count(&[("crates/a/src/b.rs", module)]), 0);
        assert_eq!(count(&[code, ("crates/d/src/e.rs", "fn d3_replies_wait() {}")]), 1);
    }

    /// A page that names tests which were renamed or never written promises what nothing shows.
    #[test]
    fn a_test_that_the_page_names_and_that_is_not_there_is_found() {
        let source = [Source::new("crates/a/tests/b.rs", "fn a_reply_waits_for_it() {}")];
        assert!(check_page("`durable_lsn` and `a_reply_waits_for_it`", &source).is_empty());
        assert_eq!(check_page("`a_reply_waits_for_nothing` (test: ...)", &source).len(), 2);
    }

    #[test]
    fn a_rule_that_does_not_exist_is_found() {
        assert_eq!(count(&[("crates/a/tests/b.rs", "// D11 and D0")]), 2);
        assert_eq!(count(&[("crates/a/tests/b.rs", "// D, Dx, 3D, D3x")]), 0);
    }
}
