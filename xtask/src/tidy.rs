//! What neither compiler nor clippy checks: layering, seams, rules, the format's page, the look of
//! files.

mod architecture;
mod format;
mod rules;
mod seams;
mod source;
mod text;

use std::{fmt, fs, path::Path, process::Command};

use self::source::Source;
use crate::{
    Failure,
    run::{root, sorted},
};

/// What to do with the hashes at the end of docs/format.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hashes {
    Compare,
    Renew,
}

/// Something to mend, and where.
#[derive(Debug)]
struct Finding {
    place: String,
    what: String,
}

impl Finding {
    fn at(source: &Source, at: usize, what: impl Into<String>) -> Self {
        Self { place: format!("{}:{}", source.path, source.line(at)), what: what.into() }
    }

    fn page(path: &str, what: impl Into<String>) -> Self {
        Self { place: path.to_owned(), what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Runs all checks and prints what they find.
pub(crate) fn run(hashes: Hashes) -> Result<(), Failure> {
    let sources = sources()?;
    let table = format::table(&sources);
    if hashes == Hashes::Renew {
        fs::write(root().join("docs/format.md"), format::bless(&read("docs/format.md")?, &table))?;
    }
    let mut findings = check_pages(&table)?;
    let parts = architecture::parts(&read("ARCHITECTURE.md")?)?;
    findings.extend(architecture::check_edges(&parts, &architecture::edges(&metadata()?)?));
    for source in &sources {
        findings.extend(architecture::check_unsafe(&parts, source));
        findings.extend(seams::check_store(source));
        findings.extend(seams::check_same_code(source));
        findings.extend(text::check_source(source));
    }
    findings.extend(rules::check(&sources));
    findings.extend(rules::check_page(&read("docs/durability.md")?, &sources));
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} source files", sources.len());
            Ok(())
        }
        count => Err(format!("tidy: {count} to mend").into()),
    }
}

fn check_pages(table: &str) -> Result<Vec<Finding>, Failure> {
    let mut findings = format::check(&read("docs/format.md")?, table);
    findings.extend(text::check_readme(&read("README.md")?));
    let mut members = vec!["bench".to_owned(), "xtask".to_owned()];
    for dir in sorted(&root().join("crates"))? {
        members.push(relative(&dir));
    }
    for member in members {
        let path = format!("{member}/Cargo.toml");
        findings.extend(text::check_manifest(&path, &read(&path)?));
    }
    Ok(findings)
}

fn sources() -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for dir in ["bench", "crates", "xtask"] {
        add_sources(&root().join(dir), &mut sources)?;
    }
    Ok(sources)
}

fn add_sources(dir: &Path, sources: &mut Vec<Source>) -> Result<(), Failure> {
    for path in sorted(dir)? {
        if path.is_dir() && !path.ends_with("target") {
            add_sources(&path, sources)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let path = relative(&path);
            sources.push(Source::new(&path, &read(&path)?));
        }
    }
    Ok(())
}

fn relative(path: &Path) -> String {
    let inside = path.strip_prefix(root()).expect("found below the root");
    inside.to_string_lossy().into_owned()
}

fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}").into())
}

fn metadata() -> Result<String, Failure> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
