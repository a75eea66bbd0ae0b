//! What a server says: both outputs are read to their end, the last lines are kept.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::Child,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Instant,
};

use super::keep::{ENDED, STARTED};

/// Both outputs of a process, while they come.
#[derive(Debug)]
pub(super) struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    said: Mutex<Said>,
    changed: Condvar,
}

/// What was said up to now.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Where it listens.
    pub(super) address: Option<SocketAddr>,
    /// Where it says how its time is spent.
    pub(super) stages: Option<SocketAddr>,
    /// The number of its process, which its keeper says.
    pub(super) pid: Option<u32>,
    last: VecDeque<String>,
    /// Outputs on which nothing will be said any more.
    over: usize,
}

impl Log {
    /// Reads both outputs of `child`.
    pub(super) fn of(child: &mut Child) -> Self {
        let outputs: [Box<dyn Read + Send>; OUTPUTS] = [
            Box::new(child.stdout.take().expect("its output is a pipe")),
            Box::new(child.stderr.take().expect("its output is a pipe")),
        ];
        let shared = Arc::new(Shared { said: Mutex::default(), changed: Condvar::new() });
        for output in outputs {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
                let mut goes_on = true;
                while goes_on {
                    let line = lines.next();
                    shared.change(|said| goes_on = said.hear(line.as_deref()));
                }
            });
        }
        Self(shared)
    }

    /// Waits until `is_enough`, until nothing will be said any more, or until a time.
    pub(super) fn wait(&self, until: Instant, is_enough: impl Fn(&Said) -> bool) {
        let left = until.saturating_duration_since(Instant::now());
        let goes_on = |said: &mut Said| !said.is_over() && !is_enough(said);
        // Enough or not, the caller looks.
        let _said = self.0.changed.wait_timeout_while(self.said(), left, goes_on);
    }

    /// Returns what was said up to now.
    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().expect("no reader panics")
    }
}

impl Shared {
    fn change(&self, how: impl FnOnce(&mut Said)) {
        how(&mut self.said.lock().expect("no reader panics"));
        self.changed.notify_all();
    }
}

impl Said {
    /// Takes the next line of an output, and returns false behind the last one.
    fn hear(&mut self, line: Option<&[u8]>) -> bool {
        let Some(line) = line else {
            self.over += 1;
            return false;
        };
        let line = String::from_utf8_lossy(line);
        if let Some(pid) = line.strip_prefix(STARTED) {
            self.pid = self.pid.or_else(|| pid.parse().ok());
        } else if let Some(how) = line.strip_prefix(ENDED) {
            self.over += 1;
            if self.is_over() {
                self.keep(&format!("it ended: {how}"));
            }
            return false;
        } else {
            let address =
                |name: &str| line.strip_prefix(name)?.split_once("http://")?.1.parse().ok();
            self.address = self.address.or_else(|| address("listening"));
            self.stages = self.stages.or_else(|| address("stages"));
            self.keep(&line);
        }
        true
    }

    fn keep(&mut self, line: &str) {
        let line = line.trim();
        if !line.is_empty() {
            self.last.push_back(line.to_owned());
        }
        if self.last.len() > LINES_MAX {
            self.last.pop_front();
        }
    }

    /// Returns true if nothing will be said any more: it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over == OUTPUTS
    }

    /// Returns the last lines, one after the other.
    pub(super) fn text(&self) -> String {
        let lines: Vec<&str> = self.last.iter().map(String::as_str).collect();
        if lines.is_empty() { "it said nothing".into() } else { lines.join("\n  ") }
    }
}

/// Where something is said: stdout and stderr.
const OUTPUTS: usize = 2;
/// Lines that are kept.
const LINES_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with a thousand lines of banner hides the line that says why.
    #[test]
    fn the_last_lines_are_kept() {
        let mut said = Said::default();
        let mut hear = |line: &str| said.hear(Some(line.as_bytes()));
        assert!(hear(&format!("{STARTED}77")) && hear("listening  http://127.0.0.1:80"));
        assert!((0..100).all(|line| hear(&format!("line {line}"))));
        // Of the two outputs one may be read later than the other.
        assert!(!hear(&format!("{ENDED}exit status: 1")) && hear("why"));
        assert!(!said.is_over());
        assert!(!said.hear(Some(format!("{ENDED}exit status: 1").as_bytes())));
        assert!(said.is_over());
        assert_eq!((said.pid, said.address.unwrap().port()), (Some(77), 80));
        assert!(said.text().starts_with("line 90\n"), "{}", said.text());
        assert!(said.text().ends_with("line 99\n  why\n  it ended: exit status: 1"));
        assert_eq!(Said::default().text(), "it said nothing");
    }
}
