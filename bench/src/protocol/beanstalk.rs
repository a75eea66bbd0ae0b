//! beanstalkd: writes put jobs; reads delete the oldest job that the same connection has put, so
//! that a mix of half and half does not grow. With none of its own left, a read puts one, too.

use std::{collections::VecDeque, io::Write};

use super::{
    Ask, Malformed, Outbox, Reply, Speaker, Values, Verdict,
    pieces::{Lines, keep_words, number},
};

/// A connection that puts and deletes.
#[derive(Debug)]
pub(crate) struct Beanstalk {
    values: Values,
    lines: Lines,
    /// Jobs that were put and not deleted, the oldest first.
    jobs: VecDeque<u64>,
    /// What the requests on the way are.
    on_the_way: VecDeque<Command>,
    said: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Put,
    Delete,
}

impl Beanstalk {
    pub(crate) fn new(values: Values) -> Self {
        Self {
            values,
            lines: Lines::default(),
            jobs: VecDeque::new(),
            on_the_way: VecDeque::new(),
            said: String::new(),
        }
    }
}

impl Speaker for Beanstalk {
    fn ask(&mut self, ask: Ask, out: &mut Outbox) {
        let key = match ask {
            Ask::Write(key) | Ask::Read(key) => key,
            Ask::Hello | Ask::Same => return,
        };
        if matches!(ask, Ask::Read(_))
            && let Some(job) = self.jobs.pop_front()
        {
            write!(out.own, "delete {job}\r\n").expect("a vector takes it");
            return self.on_the_way.push_back(Command::Delete);
        }
        // Priority, delay, and seconds to run.
        write!(out.own, "put 0 0 60 {}\r\n", self.values.len_bytes()).expect("a vector takes it");
        self.values.write(key, out);
        out.own.extend_from_slice(b"\r\n");
        self.on_the_way.push_back(Command::Put);
    }

    fn reply(&mut self, bytes: &mut &[u8], _ask: Ask) -> Result<Option<Reply>, Malformed> {
        const BAD: Malformed = Malformed::Beanstalk;
        let Some(line) = self.lines.next(bytes, BAD)? else { return Ok(None) };
        let command = self.on_the_way.pop_front().ok_or(BAD)?;
        let mut words = line.split(|byte| *byte == b' ');
        let verdict = match (command, words.next().unwrap_or_default()) {
            (Command::Put, b"INSERTED") => {
                self.jobs.push_back(words.next().and_then(number).ok_or(BAD)?);
                Verdict::Good
            }
            (Command::Delete, b"DELETED") => Verdict::Good,
            (Command::Delete, b"NOT_FOUND") => Verdict::Missing,
            (_, word) if REFUSALS.contains(&word) => {
                keep_words(&mut self.said, line);
                Verdict::Refused
            }
            _ => return Err(BAD),
        };
        let len = self.values.len_bytes() as u64;
        let payload_bytes = if command == Command::Put { len } else { 0 };
        Ok(Some(Reply { verdict, payload_bytes, closes: false }))
    }

    fn said(&self) -> &str {
        &self.said
    }
}

const REFUSALS: [&[u8]; 8] = [
    b"BURIED",
    b"EXPECTED_CRLF",
    b"JOB_TOO_BIG",
    b"DRAINING",
    b"OUT_OF_MEMORY",
    b"INTERNAL_ERROR",
    b"BAD_FORMAT",
    b"UNKNOWN_COMMAND",
];

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{heard, said},
        *,
    };

    /// A queue that only grows is measured once, and then fills the disk.
    #[test]
    fn a_read_deletes_the_oldest_job_of_its_own() {
        let mut speaker = Beanstalk::new(Values::new(2));
        let put = "put 0 0 60 2\r\n70\r\n";
        assert_eq!(said(&mut speaker, &[Ask::Write(7), Ask::Read(7)]), put.repeat(2));
        let mut replies: &[u8] = b"INSERTED 8\r\nINSERTED 9\r\nDELETED\r\n";
        for _ in 0..2 {
            assert!(speaker.reply(&mut replies, Ask::Write(7)).unwrap().is_some());
        }
        assert_eq!(said(&mut speaker, &[Ask::Read(7)]), "delete 8\r\n");
        let reply = speaker.reply(&mut replies, Ask::Read(7)).unwrap().unwrap();
        assert_eq!((reply.verdict, reply.payload_bytes), (Verdict::Good, 0));
        assert_eq!(said(&mut speaker, &[Ask::Read(7)]), "delete 9\r\n");
    }

    #[test]
    fn replies_are_checked_however_they_are_cut() {
        let speaker = || Beanstalk::new(Values::new(2));
        let wanted = [Verdict::Good, Verdict::Refused];
        let text = b"INSERTED 8\r\nJOB_TOO_BIG\r\n";
        assert_eq!(heard(speaker, &[Ask::Write(7); 2], text).unwrap(), wanted);
        for bad in ["DELETED\r\n", "INSERTED x\r\n", "hello\r\n", "INSERTED 1\n"] {
            let found = heard(speaker, &[Ask::Write(7)], bad.as_bytes());
            assert_eq!(found, Err(Malformed::Beanstalk), "{bad}");
        }
    }
}
