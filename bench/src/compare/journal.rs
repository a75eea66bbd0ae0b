//! What was measured, kept round by round, so that an hour's work survives an interruption.
//!
//! A file of lines of JSON: the first says what is measured, each other one is a round. A line that
//! was cut is not there.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{cli::Failure, rounds::Round};

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// What was there when it was opened.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    workload: String,
    round: Round,
}

impl Journal {
    /// Starts a journal of what `identity` says. One that is there is kept beside it, as `.before`.
    pub(super) fn create(path: &Path, identity: &Value) -> Result<Self, Failure> {
        let failed = |error| format!("cannot write {}: {error}", path.display());
        if path.exists() {
            fs::rename(path, path.with_extension("before")).map_err(failed)?;
        }
        let mut file = File::create(path).map_err(failed)?;
        writeln!(file, "{identity}").map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, entries: Vec::new() })
    }

    /// Opens a journal of what `identity` says, to go on behind its last whole line.
    pub(super) fn resume(path: &Path, identity: &Value) -> Result<Self, Failure> {
        let failed = |error| format!("cannot resume from {}: {error}", path.display());
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let mut reader = BufReader::new(&file);
        let (mut entries, mut end, mut line) = (Vec::new(), 0, String::new());
        while reader.read_line(&mut line).map_err(failed)? > 0 && line.ends_with('\n') {
            if end == 0 {
                let found: Value = serde_json::from_str(&line)
                    .map_err(|_| format!("{} is no journal of a comparison", path.display()))?;
                if let Some(difference) = difference(&found, identity) {
                    let path = path.display();
                    return Err(format!("{path} is of another measurement: {difference}").into());
                }
            } else {
                let Ok(entry) = serde_json::from_str(&line) else { break };
                entries.push(entry);
            }
            end += line.len() as u64;
            line.clear();
        }
        drop(reader);
        if end == 0 {
            return Err(format!("{} is no journal of a comparison", path.display()).into());
        }
        file.set_len(end).map_err(failed)?;
        file.seek(std::io::SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, entries })
    }

    /// Returns the rounds of a workload that it holds.
    pub(super) fn rounds(&self, workload: &str) -> Vec<Round> {
        let of_it = self.entries.iter().filter(|entry| entry.workload == workload);
        of_it.map(|entry| entry.round.clone()).collect()
    }

    /// Keeps a round.
    pub(super) fn keep(&mut self, workload: &str, round: &Round) -> Result<(), Failure> {
        let entry = Entry { workload: workload.to_owned(), round: round.clone() };
        let line = serde_json::to_string(&entry)?;
        writeln!(self.file, "{line}")
            .map_err(|error| format!("cannot write {}: {error}", self.path.display()).into())
    }
}

/// Says what is not the same in two identities.
fn difference(found: &Value, wanted: &Value) -> Option<String> {
    let (Some(found), Some(wanted)) = (found.as_object(), wanted.as_object()) else {
        return Some("it does not say which".into());
    };
    let differs = wanted.iter().find(|(name, value)| found.get(*name) != Some(value));
    differs.map(|(name, value)| {
        let before = found.get(name).unwrap_or(&Value::Null);
        format!("{name} was {before} and is {value}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn round(rate: f64) -> Round {
        let row = vec![Some(rate); 17];
        serde_json::from_value(json!({ "samples": [row], "tallies": [] })).unwrap()
    }

    /// Rounds of another commit among those of this one would compare two programs with a third.
    #[test]
    fn a_journal_goes_on_only_with_the_same_measurement() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let identity = json!({ "commit": "a", "rounds": 3 });
        let mut journal = Journal::create(&path, &identity).unwrap();
        journal.keep("post", &round(1.0)).unwrap();
        journal.keep("read", &round(2.0)).unwrap();
        drop(journal);
        // It was stopped while it wrote.
        let mut cut = OpenOptions::new().append(true).open(&path).unwrap();
        cut.write_all(b"{\"workload\":\"post\",\"rou").unwrap();

        let other = json!({ "commit": "b", "rounds": 3 });
        let refusal = Journal::resume(&path, &other).unwrap_err().to_string();
        assert!(refusal.contains("commit was \"a\" and is \"b\""), "{refusal}");

        let mut journal = Journal::resume(&path, &identity).unwrap();
        assert_eq!((journal.rounds("post").len(), journal.rounds("sizes").len()), (1, 0));
        journal.keep("post", &round(3.0)).unwrap();
        let journal = Journal::resume(&path, &identity).unwrap();
        assert_eq!((journal.rounds("post").len(), journal.rounds("read").len()), (2, 1));
    }

    #[test]
    fn what_is_no_journal_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let message = |path: &Path| Journal::resume(path, &json!({})).unwrap_err().to_string();
        assert!(message(&path).contains("cannot resume from"), "{}", message(&path));
        for text in ["", "no\n", "{\"commit\":"] {
            fs::write(&path, text).unwrap();
            assert!(message(&path).contains("no journal"), "{text:?}");
        }
    }
}
