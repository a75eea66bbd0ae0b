//! The examples run, and do what they say.

#[path = "../examples/wal.rs"]
mod wal;

/// An example that has rotted teaches the wrong thing.
#[test]
fn the_loop_of_the_talk_recovers_what_it_acknowledged() {
    wal::main().expect("the example runs");
}

/// The promise of its size: a screen.
#[test]
fn the_loop_of_the_talk_has_under_40_lines() {
    let source = include_str!("../examples/wal.rs");
    let from = source.find("fn turn").expect("the loop");
    let to = from + source[from..].find("\n}\n").expect("its end");
    assert!(source[from..to].lines().count() < 40);
}
