//! What is installed beside the binary, in `dist`.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{fs, path::Path};

use common::impasto;

/// A unit that calls the server with options that it does not have fails on every machine it is
/// installed on, and nowhere else.
#[test]
fn the_unit_starts_the_server_with_settings_that_it_takes() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist");
    let unit = fs::read_to_string(dist.join("systemd/impasto.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let settings = dist.join("impasto.toml");
    let args: Vec<_> = start.split(' ').skip(1).collect();
    assert!(args.contains(&"/etc/impasto/impasto.toml"), "{start}");
    let installed = |arg: &&str| match *arg {
        "/etc/impasto/impasto.toml" => settings.to_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    let args: Vec<_> = args.iter().map(installed).chain(["--check-config".into()]).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let checked = impasto(&args).output().unwrap();
    let text = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success(), "{text}");
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(said.contains("data = \"/var/lib/impasto/data\""), "{said}");
}
