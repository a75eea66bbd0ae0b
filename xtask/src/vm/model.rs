//! What a client knows of a log that it alone appends to, and what a restart may show of it.
//!
//! The bytes of a record follow from the seed, the log and the record's number. So nothing has to
//! be kept to check it, and a record that is there twice, or under another number, is found: it
//! has the bytes of its neighbour.

use super::random::Random;

/// A log, as far as its only writer knows it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) name: String,
    seed: u64,
    /// The newest record that was acknowledged, and the newest that was sent.
    acked: u64,
    sent: u64,
    /// The first record, after the last trim that was acknowledged, and that was sent.
    trimmed: u64,
    trim_sent: u64,
}

impl Known {
    /// Returns a log without records.
    pub(super) fn new(name: &str, seed: u64) -> Self {
        let name = name.to_owned();
        let salt = name.bytes().fold(seed, |salt, byte| Random(salt ^ u64::from(byte)).next());
        Self { name, seed: salt, acked: 0, sent: 0, trimmed: 1, trim_sent: 1 }
    }

    /// Returns the number of the next record to append, and counts it as sent.
    pub(super) const fn send(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// Takes the number that the oldest append without an answer was given.
    pub(super) fn acknowledge(&mut self, seq: u64) -> Result<(), String> {
        let expected = self.acked + 1;
        if seq != expected || seq > self.sent {
            return Err(format!("{}: an append was given {seq} instead of {expected}", self.name));
        }
        self.acked = seq;
        Ok(())
    }

    /// Returns the records that are certainly there.
    pub(super) const fn live(&self) -> std::ops::Range<u64> {
        self.trim_sent..self.acked + 1
    }

    /// Counts a trim as sent.
    pub(super) fn send_trim(&mut self, before: u64) {
        self.trim_sent = before.clamp(self.trimmed, self.acked + 1);
    }

    /// Takes the answer to the trim.
    pub(super) const fn acknowledge_trim(&mut self) {
        self.trimmed = self.trim_sent;
    }

    /// Checks what the log has after a restart, and takes it for what is known: each append and
    /// trim without an answer has taken effect or not, in their order.
    pub(super) fn settle(&mut self, first: u64, next: u64) -> Result<(), String> {
        let Self { name, acked, sent, trimmed, trim_sent, .. } = self;
        if next <= *acked {
            return Err(format!(
                "{name}: {acked} records were acknowledged, {} are lost",
                *acked + 1 - next
            ));
        }
        if next > *sent + 1 {
            return Err(format!("{name}: {sent} records were sent, and the next is {next}"));
        }
        if first != *trimmed && first != *trim_sent {
            return Err(format!("{name}: starts at {first}, trimmed to {trimmed} or {trim_sent}"));
        }
        (self.acked, self.sent) = (next - 1, next - 1);
        (self.trimmed, self.trim_sent) = (first, first);
        Ok(())
    }

    /// Returns the bytes of a record.
    pub(super) fn body(&self, seq: u64) -> Vec<u8> {
        let mut random = Random(self.seed ^ seq);
        let len = body_len(&mut random);
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Compares a record with what was sent.
    pub(super) fn check(&self, seq: u64, bytes: &[u8]) -> Result<(), String> {
        let expected = self.body(seq);
        if bytes == expected {
            return Ok(());
        }
        let same = bytes.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        let (name, len, sent) = (&self.name, bytes.len(), expected.len());
        Err(format!("{name}/{seq}: {len} bytes, {sent} were sent, the first {same} are the same"))
    }
}

/// Mostly short ones, some for each way that a body can take, and a few long ones.
fn body_len(random: &mut Random) -> usize {
    let len = match random.below(100) {
        0..5 => 0,
        5..70 => random.below(1_500),
        70..90 => random.below(20_000),
        90..98 => random.below(100_000),
        _ => 200_000 + random.below(1_000_000),
    };
    usize::try_from(len).expect("a record fits into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log with 3 records acknowledged, 5 sent.
    fn known() -> Known {
        let mut known = Known::new("a", 7);
        (0..5).for_each(|_| _ = known.send());
        (1..4).for_each(|seq| known.acknowledge(seq).unwrap());
        known
    }

    /// Acknowledged and lost is what all of this is to find.
    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_sent_may_be() {
        for (next, holds) in [(3, false), (4, true), (5, true), (6, true), (7, false)] {
            assert_eq!(known().settle(1, next).is_ok(), holds, "{next}");
        }
    }

    /// A record that comes back after a trim was answered is as bad as one that is lost.
    #[test]
    fn a_trim_holds_when_it_was_answered() {
        let mut log = known();
        log.send_trim(3);
        assert_eq!(log.live(), 3..4);
        for (first, holds) in [(1, true), (2, false), (3, true)] {
            assert_eq!(log.clone().settle(first, 4).is_ok(), holds, "{first}");
        }
        log.acknowledge_trim();
        assert!(log.clone().settle(1, 4).is_err());
        assert!(log.settle(3, 4).is_ok());
    }

    /// An append that was sent and is not there: its number is given to the next one.
    #[test]
    fn numbers_go_on_where_the_restart_left_them() {
        let mut log = known();
        log.settle(1, 5).unwrap();
        assert_eq!(log.send(), 5);
        assert!(log.acknowledge(6).is_err());
        assert!(log.acknowledge(5).is_ok());
    }

    #[test]
    fn each_record_has_bytes_of_its_own() {
        let (one, other) = (Known::new("a", 7), Known::new("b", 7));
        let seq = (1..).find(|seq| one.body(*seq).len() > 8).unwrap();
        assert!(one.check(seq, &one.body(seq)).is_ok());
        assert!(one.check(seq, &other.body(seq)).is_err());
        assert!(one.check(seq, &one.body(seq + 1)).is_err());
    }
}
