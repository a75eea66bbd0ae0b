//! What clients ask for, and in which order.

use impasto_sim::Rng;

pub(crate) const CLIENTS: usize = 3;
pub(crate) const LOGS: [&str; 3] = ["a", "b", "c"];

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Append {
        log: usize,
        len: usize,
    },
    Read {
        log: usize,
        back: u64,
    },
    Trim {
        log: usize,
        back: u64,
    },
    /// What the server refuses, with a body that it skips.
    Nonsense {
        len: usize,
    },
}

/// What happens, in order, and what is known of it beforehand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) events: Vec<Event>,
    /// All of it fits the region: nothing has to be refused.
    pub(crate) fits: bool,
    /// A client that never learns what it is told.
    pub(crate) deaf: Option<usize>,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A client asks.
    Ask(usize, Ask),
    /// A client sends one half of what it asks.
    Half(usize, Ask),
    /// And the other one.
    Rest(usize),
    /// Workers take turns.
    Turns(usize),
}

impl Script {
    /// Short and long values, pipelined and not, with reads and trims between.
    pub(crate) fn random(rng: &mut Rng, length: usize) -> Self {
        let mut events = Vec::new();
        for _ in 0..length {
            let log = rng.index(LOGS.len());
            let ask = match rng.index(10) {
                0 | 1 => Ask::Read { log, back: rng.below(3) },
                2 => Ask::Trim { log, back: rng.below(3) },
                _ => Ask::Append { log, len: length_of_value(rng) },
            };
            events.push(Event::Ask(rng.index(CLIENTS), ask));
            if rng.once_in(2) {
                events.push(Event::Turns(1 + rng.index(3)));
            }
        }
        Self { events, fits: true, deaf: None }
    }

    /// Values as long as they can be where they are, and trims that take most of them: the log goes
    /// round its region, and space is used again.
    pub(crate) fn round(rng: &mut Rng, length: usize) -> Self {
        let mut events = Vec::new();
        for _ in 0..length {
            let log = rng.index(LOGS.len());
            let client = rng.index(CLIENTS);
            let len = match rng.index(6) {
                // More than the landing buffers hold at once: the rest is directed to its place.
                0 if rng.once_in(4) => 1_700_000 + rng.index(1_000_000),
                0 => 66_000 + rng.index(300_000),
                // Alone in its buffer, and so what is trimmed alone sets that free.
                1 => 250_000 + rng.index(12_000),
                2 => 300 + rng.index(9_000),
                _ => 60_000 + rng.index(5_000),
            };
            events.push(Event::Ask(client, Ask::Append { log, len }));
            if rng.once_in(2) {
                let client = if rng.once_in(2) { client } else { rng.index(CLIENTS) };
                events.push(Event::Ask(client, Ask::Trim { log, back: rng.below(2) }));
            }
            if rng.once_in(3) {
                events.push(Event::Turns(1 + rng.index(4)));
            }
        }
        Self { events, fits: false, deaf: None }
    }

    /// Takes a landing buffer of the first client through its states: landed, held by a body of
    /// which half is there, kept, freed when the trims of all that is kept in it are durable,
    /// landed again, kept again.
    pub(crate) fn of_a_buffer() -> Self {
        const WRITER: usize = 0;
        const TRIMMER: usize = 1;
        let turns = |what| [what, Event::Turns(4)];
        let append = |log| turns(Event::Ask(WRITER, Ask::Append { log, len: 60_000 }));
        let trim = |log, back| turns(Event::Ask(TRIMMER, Ask::Trim { log, back }));
        let pass = turns(Event::Ask(WRITER, Ask::Nonsense { len: 65_000 }));
        let half = turns(Event::Half(WRITER, Ask::Append { log: 0, len: 60_000 }));
        let events = [
            // Something is kept in each of the port's buffers, so that it is given others. What is
            // kept in two of them stays: the pool gives out the first one next.
            [append(0), append(1), pass, pass].concat(),
            [append(0), pass, pass, pass].concat(),
            [append(2), pass, pass, pass].concat(),
            [append(0), pass, pass, pass].concat(),
            // The last one of them is held, while what was kept beside it dies.
            [half, trim(0, 1), turns(Event::Rest(WRITER)), trim(0, 0)].concat(),
            // So does the last in the first one, which is the port's again when it has filled four.
            trim(1, 0).to_vec(),
            pass.repeat(18),
            append(0).repeat(4),
        ];
        Self { events: events.concat(), fits: true, deaf: None }
    }

    /// One client that does not wait, with values of one length.
    pub(crate) fn equal_appends(count: usize) -> Self {
        let ask = Event::Ask(0, Ask::Append { log: 0, len: 20 });
        Self { events: [ask, Event::Turns(1)].repeat(count), fits: true, deaf: None }
    }
}

/// Inline and kept on either medium, equal lengths often (D6), and sometimes long.
fn length_of_value(rng: &mut Rng) -> usize {
    match rng.index(8) {
        0..3 => 20,
        3 => 400,
        4 => 700,
        5 => 5_000 + rng.index(100),
        6 => 66_000,
        _ => 100 + rng.index(300),
    }
}
