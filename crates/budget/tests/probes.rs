//! Every probe measures something. What it measures is no test's business.

#![expect(clippy::unwrap_used, reason = "tests")]

use impasto_budget::{
    Figure, Frame, Machine, Pinned,
    path::{self, Part, PathOptions, State},
    probes::{self, Effort, Group, Pages},
};

fn machine() -> Machine {
    let mut machine = Machine::look(None).unwrap();
    machine.working_set_bytes = 1 << 20;
    machine
}

fn is_sane(figure: Figure) -> bool {
    let Figure { median, low, high, min } = figure;
    let all = [median, low, high, min];
    all.iter().all(|ns| ns.is_finite() && *ns >= 0.0)
        && min <= low
        && low <= median
        && median <= high
}

/// A probe whose work the compiler removes, or whose clock is subtracted twice, shows nothing, and
/// everything that follows from it is nonsense.
#[test]
fn every_probe_returns_a_figure() {
    let machine = machine();
    let dir = tempfile::tempdir().unwrap();
    for group in Group::BUDGET.into_iter().chain([Group::Flushes]) {
        let effort = Effort { times: 5, file_bytes: 8 << 20 };
        let rows = group.measure(&machine, effort, dir.path());
        assert!(!rows.is_empty(), "{group:?}");
        for row in rows {
            // Not every kernel, file system or CPU has everything; then it says what is missing.
            match (row.figure, row.missing) {
                (Some(figure), None) => assert!(is_sane(figure), "{}: {figure:?}", row.key),
                (None, Some(why)) => assert!(!why.is_empty(), "{}", row.key),
                both => panic!("{}: {both:?}", row.key),
            }
        }
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "a file is left");
}

/// Keys are what scripts look for: two of one name hide each other.
#[test]
fn keys_are_unique() {
    let machine = machine();
    let effort = Effort { times: 1, file_bytes: 4 << 20 };
    let rows = Group::BUDGET.map(|group| group.measure(&machine, effort, "/".as_ref()));
    let mut keys: Vec<String> = rows.into_iter().flatten().map(|row| row.key).collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

/// A path that loses a packet, or commits it twice, would still have a figure: the store refuses
/// what is not there, and the ring what is not given back.
#[test]
fn packets_of_each_kind_go_their_way() {
    let machine = machine();
    for (bytes, inline) in [(84, true), (1538, false), (9038, false)] {
        let frame = Frame::on_wire(bytes).unwrap();
        for state in State::ALL {
            let options = PathOptions { frame, state, parts: true, bytes: 1 << 20 };
            let path = path::measure(&machine, options).unwrap();
            assert_eq!((path.frame, path.state, path.inline), (frame, state, inline));
            assert!(is_sane(path.path) && path.rate.as_gigabits() > 0.0, "{path:?}");
            assert!(path.parts.iter().all(|part| is_sane(part.figure)), "{path:?}");
            let flushes = path.parts.iter().any(|part| part.part == Part::Flush);
            assert_eq!(flushes, !inline, "what is copied is flushed with its record");
            assert!(path.ratio() > 0.0);
        }
    }
}

/// Memory that is short must end in a sentence, not with the process.
#[test]
fn too_little_memory_is_an_error() {
    let mut machine = machine();
    machine.available_bytes = Some(1 << 20);
    let (frame, state) = (Frame::FULL, State::Cold);
    let options = PathOptions { frame, state, parts: false, bytes: 1 << 20 };
    let error = path::measure(&machine, options).unwrap_err();
    assert!(error.to_string().contains("MiB of memory are needed and 1 MiB"), "{error}");
    // The machine is asked for 16 TiB: nobody may try.
    machine.working_set_bytes = 16 << 40;
    let effort = Effort { times: 1, file_bytes: 4 << 20 };
    for group in [Group::Processor, Group::Bandwidth, Group::Compute] {
        let rows = group.measure(&machine, effort, "/nowhere".as_ref());
        let short = |why: &String| why.contains("of memory are needed");
        assert!(rows.iter().any(|row| row.missing.as_ref().is_some_and(short)), "{rows:?}");
        let others = rows.iter().any(|row| row.figure.is_some());
        assert!(others || group == Group::Bandwidth, "{rows:?}");
    }
}

#[test]
fn a_thread_is_let_go_where_it_was() {
    let cores = Machine::look(None).unwrap().cores;
    let pinned = Pinned::to(cores[0]).unwrap();
    assert_eq!(Machine::look(None).unwrap().cores, [cores[0]]);
    drop(pinned);
    assert_eq!(Machine::look(None).unwrap().cores, cores);
    assert!(Pinned::to(usize::MAX).is_err());
}

#[test]
fn a_walk_through_memory_takes_time() {
    let clock = impasto_budget::Clock::calibrate();
    let miss = probes::cache_miss(&machine(), clock, 5, Pages::Ordinary);
    match miss {
        Ok(miss) => assert!(miss.min > 0.0, "{miss:?}"),
        Err(error) => assert!(error.to_string().contains("huge pages"), "{error}"),
    }
}
