//! The commands that are not `serve`, over real regions.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::fs;

use common::{
    Server, impasto, place,
    region::{filled, flip, json, place_of, run},
};
use serde_json::Value;

/// A region that is made with another size, or over another one, is a surprise on the first day.
#[test]
fn create_says_what_it_made_and_makes_it_once() {
    let dir = place();
    let data = dir.path().join("a/b");
    let data = data.to_str().unwrap();
    let (code, out, _) = run(&["create", "--data", data, "--size", "17MiB"]);
    assert_eq!(code, 0);
    assert!(out.starts_with(&format!("created {data}/region: 17MiB on disk, ")), "{out}");
    assert_eq!(fs::metadata(format!("{data}/region")).unwrap().len(), 17 << 20);

    let (code, out, err) = run(&["create", "--data", data, "--size", "17MiB"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    let there =
        format!("impasto: {data}/region exists already; open it, or choose another --data\n");
    assert_eq!(err, there);

    let other = dir.path().join("other");
    let made = json(&["create", "--json", "--size", "16MiB", "--data", other.to_str().unwrap()], 0);
    assert_eq!((&made["bytes"], &made["medium"]), (&(16 << 20).into(), &"disk".into()));
    assert_eq!(made["uuid"].as_str().unwrap().len(), 36);
    drop(Server::start(&other, &[]));
}

/// What is shown has to be what is there, or nobody looks twice.
#[test]
fn inspect_shows_buffers_logs_and_records() {
    let dir = place();
    filled(dir.path());
    let data = dir.path().to_str().unwrap();
    let found = json(&["inspect", "--json", data], 0);
    assert_eq!(found["clean"], true);
    assert_eq!((&found["epoch"], &found["bytes"]), (&1.into(), &(16 << 20).into()));
    let bufs = &found["buffers"];
    let count = |state: &str| bufs[state].as_u64().unwrap();
    // 320,000 bytes take two buffers, and of the second one less than a quarter.
    let counted = ["total", "log", "kept", "sparse", "landing", "damaged"].map(count);
    assert_eq!(counted, [60, 4, 1, 1, 0, 0], "{bufs}");
    assert_eq!(count("free"), 54);
    let map = found["map"].as_str().unwrap();
    let letters = |letter| map.matches(letter).count();
    assert_eq!(['.', 'L', 'K', 's'].map(letters), [54, 4, 1, 1], "{map}");
    let logs: Vec<_> = found["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|log| {
            let number = |field: &str| log[field].as_u64().unwrap();
            (log["name"].as_str().unwrap(), ["first", "next", "records", "bytes"].map(number))
        })
        .collect();
    assert_eq!(logs, [("long", [1, 2, 1, 320_000]), ("words", [2, 4, 2, 8])]);
    let newest = &found["records"][0];
    assert_eq!((&newest["log"], &newest["bytes"]), (&"long".into(), &320_000.into()));
    assert!(newest["extents"].as_u64().unwrap() >= 2, "{newest}");
    let trim = &found["records"][2];
    assert_eq!(
        (&trim["kind"], &trim["log"], &trim["first"]),
        (&"trim".into(), &"words".into(), &2.into())
    );

    let (code, text, _) = run(&["inspect", "--records", "1", data]);
    assert_eq!(code, 0);
    for line in ["medium      disk", "stopped     cleanly", "logs     2", "record 1: 320000 bytes"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("LLLL") && !text.contains("record 3"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");
}

/// A region that was never served has no second superblock; that is no damage.
#[test]
fn inspect_and_verify_take_a_fresh_region_for_whole() {
    let dir = place();
    let data = dir.path().join("fresh");
    let data = data.to_str().unwrap();
    run(&["create", "--data", data, "--size", "16MiB"]);
    let (code, text, err) = run(&["inspect", data]);
    assert_eq!(code, 0, "{text}{err}");
    assert!(text.contains("superblock  1: not written yet"), "{text}");
    assert_eq!(run(&["verify", data]).0, 0);
}

/// Damage without a place is looked for by nobody.
#[test]
fn verify_names_the_place_log_and_number_of_each_damage() {
    let dir = place();
    filled(dir.path());
    let data = dir.path().to_str().unwrap();
    assert_eq!(json(&["verify", "--json", data], 0)["damage"], Value::Array(Vec::new()));
    let region = dir.path().join("region");
    let start = place_of(&region, b"0000000\n0000001\n");
    flip(&region, place_of(&region, b"0033333\n"));
    // The older copy: the newer one bears witness for the last commit.
    let older = (16 << 20) - 4096;
    flip(&region, older + 16);
    let report = json(&["verify", "--json", data], 3);
    assert_eq!(report["verifies"], false);
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert_eq!(damage[0]["at"], older);
    assert!(damage[0]["what"].as_str().unwrap().starts_with("superblock 1 is damaged"));
    let value = &damage[1];
    assert_eq!((&value["log"], &value["seq"]), (&"long".into(), &1.into()));
    assert_eq!(value["at"], start);
    let (code, text, _) = run(&["verify", data]);
    assert_eq!(code, 3);
    let line =
        format!("damaged: record 1 of log long does not verify (at byte {start:#x} of the region)");
    assert!(text.contains(&line), "{text}");
}

/// What scripts read.
#[test]
fn version_tells_what_this_machine_offers() {
    let told = json(&["version", "--json"], 0);
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&told["format"]["incompat"], &told["io_uring"]), (&1.into(), &true.into()));
    let (code, text, _) = run(&["version"]);
    assert_eq!(code, 0);
    assert!(text.starts_with(&format!("impasto {}\n", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(text.contains("io_uring  yes"), "{text}");
}

/// A setting that is read and not followed is worse than none.
#[test]
fn a_config_file_has_the_names_of_the_options_and_the_command_line_comes_first() {
    let dir = place();
    let data = dir.path().join("data");
    let config = dir.path().join("impasto.toml");
    let text = format!("data = {data:?}\nsize = \"17MiB\"\nworkers = 2\nhttp = \"127.0.0.1:0\"\n");
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let (code, out, err) = run(&["serve", "--config", config, "--workers", "1", "--check-config"]);
    assert_eq!(code, 0, "{err}");
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("# ok"));
    let has = |start: &str, end: &str| {
        let mut lines = out.lines();
        lines.any(|line| line.starts_with(start) && line.ends_with(end))
    };
    assert!(has("size = \"17MiB\"", "impasto.toml"), "{out}");
    assert!(has("workers = 1", "# the command line"), "{out}");
    assert!(has("medium = \"auto\"", "# default"), "{out}");
    assert!(!data.exists(), "nothing is touched");
    // What it says is a file again.
    let again = dir.path().join("again.toml");
    fs::write(&again, &out).unwrap();
    let (code, _, err) = run(&["serve", "--config", again.to_str().unwrap(), "--check-config"]);
    assert_eq!(code, 0, "{err}");

    let server = Server::spawn(impasto(&["serve", "--config", config, "--workers", "1"]));
    assert!(server.says("(17MiB)") && server.says("workers    1,"), "{:?}", server.banner);
}

#[test]
fn a_wrong_config_file_is_a_usage_error_with_its_line() {
    let dir = place();
    let config = dir.path().join("impasto.toml");
    let path = config.to_str().unwrap();
    let data = dir.path().join("data");
    for (text, wrong) in [
        ("workers = 1\nsise = 3", ":2: there is no option `sise`; there are data, size"),
        ("size = \"8MiB\"", ":1: size: a region cannot have 8 MiB"),
        ("size = ", ":1: "),
        ("workers = 65", ":1: workers: 65 is not in 1..=64"),
    ] {
        fs::write(&config, text).unwrap();
        for more in [&["--check-config"][..], &[]] {
            let mut args = vec!["serve", "--data", data.to_str().unwrap(), "--config", path];
            args.extend(more);
            let (code, _, err) = run(&args);
            assert_eq!(code, 2, "{err}");
            assert!(err.starts_with(&format!("impasto: {path}{wrong}")), "{err}");
        }
    }
    let (code, _, err) = run(&["serve", "--config", "/nowhere/impasto.toml"]);
    assert_eq!(code, 2);
    assert!(err.contains("cannot read /nowhere/impasto.toml"), "{err}");
    assert!(!data.exists());
}

/// A page that lacks an option is where people stop reading manuals.
#[test]
fn manual_pages_name_every_option() {
    let dir = place();
    let (code, _, err) = run(&["man", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let (_, main, _) = run(&["man"]);
    assert!(main.contains(".TH impasto 1"), "{main}");
    let (_, help, _) = run(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands
        .filter_map(|line| line.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.len() >= 7, "{commands:?}");
    for command in commands {
        let (_, help, _) = run(&[command, "--help"]);
        let page = fs::read_to_string(dir.path().join(format!("impasto-{command}.1"))).unwrap();
        let page = page.replace('\\', "");
        let options = help.split_whitespace().filter(|word| {
            word.starts_with("--")
                && word.trim_matches('-').chars().all(|c| c.is_ascii_lowercase() || c == '-')
        });
        for option in options.filter(|option| option.len() > 2) {
            assert!(page.contains(option), "{command}: {option}");
        }
        assert!(main.replace('\\', "").contains(&format!("impasto-{command}(1)")), "{command}");
    }
}

#[test]
fn completions_come_out_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text, err) = run(&["completions", shell]);
        assert_eq!(code, 0, "{err}");
        assert!(text.contains("inspect") && text.contains("busy-poll"), "{shell}");
    }
}

/// Each command has an example: that is where a newcomer looks first.
#[test]
fn help_has_an_example_of_each_command_and_all_exit_codes() {
    let (code, text, _) = run(&["help"]);
    assert_eq!(code, 0);
    for line in ["Exit codes:", "  0  ", "  1  ", "  2  ", "  3  "] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for command in
        ["serve", "create", "inspect", "verify", "budget", "version", "man", "completions"]
    {
        let (_, text, _) = run(&["help", command]);
        assert!(text.contains(&format!("\n  impasto {command}")), "{command}: {text}");
    }
}

/// What the banner says is what the process maps: frames and landing buffers are one mapping.
#[test]
fn the_memory_that_the_banner_tells_is_what_the_process_maps() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "64MiB", "--workers", "2"]);
    let line = server.banner.iter().find(|line| line.starts_with("memory")).unwrap();
    let number = |word: &str| -> u64 {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|found| *found == word).unwrap();
        words[at - 1].parse().unwrap()
    };
    let parts = ["frames", "landing", "rings", "index"].map(number);
    assert_eq!(number("MiB"), parts.iter().sum::<u64>(), "{line}");
    assert_eq!(parts[0], 64);
    let said = (parts[0] + parts[1]) << 20;
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.process.id())).unwrap();
    let lengths = maps.lines().filter_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        Some(number(end) - number(start))
    });
    // It is said in whole MiB; and the region's first superblock has a place in it.
    let near = |length: &u64| (said - (1 << 20)..said + (1 << 20)).contains(length);
    assert_eq!(lengths.filter(near).count(), 1, "{line}: {maps}");
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!((size + 1024) << 10 > said, "{size}");
}

/// Who starts a server from a script waits for one line, and reads it.
#[test]
fn serve_says_one_line_of_json_if_asked_to() {
    let dir = place();
    let mut process = common::serve(dir.path(), &["--size", "16MiB", "--json"]).spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(process.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let address = said["listening"][0].as_str().unwrap().strip_prefix("http://").unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
    process.kill().unwrap();
    process.wait().unwrap();
}

/// A list of what is lost that was cut off by a full disk is a loss in silence.
#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let dir = place();
    filled(dir.path());
    let data = dir.path().to_str().unwrap();
    for args in [&["verify", data][..], &["verify", "--json", data], &["inspect", data]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = impasto(args).stdout(full).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert_eq!(text.matches("cannot write to stdout: No space left").count(), 1, "{text}");
    }
}
