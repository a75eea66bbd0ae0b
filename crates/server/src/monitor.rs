//! What an operator looks at: the state of the region, and what was done since the start.

use impasto_media::Medium;
use impasto_region::layout::{BUF_BYTES, MediumKind};
use impasto_ring::Port;
use impasto_store::{Lsn, Usage};

use crate::{
    Enter,
    engine::Engine,
    flow::{Asked, Flow},
    http::{
        Call, Link, Status,
        reply::{decimal, document, put},
    },
};

/// Counters of all workers, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Answers by kind of request and class of status.
    answers: [[u64; CLASSES]; Kind::ALL.len()],
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) commits: u64,
    pub(crate) commit_bytes: u64,
}

/// 1xx is none of them.
const CLASSES: usize = 4;

/// What a request was about, as far as it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Append,
    Read,
    Batch,
    Describe,
    Trim,
    #[default]
    Other,
}

impl Kind {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Append, "append"),
        (Self::Read, "read"),
        (Self::Batch, "batch"),
        (Self::Describe, "describe"),
        (Self::Trim, "trim"),
        (Self::Other, "other"),
    ];

    pub(crate) const fn of(call: &Call) -> Self {
        match call {
            Call::Append(_) => Self::Append,
            Call::Read(..) => Self::Read,
            Call::Batch(..) => Self::Batch,
            Call::Describe(_) => Self::Describe,
            Call::Trim(..) => Self::Trim,
            _ => Self::Other,
        }
    }
}

impl Counts {
    /// Counts an answer, which is what a request has got.
    pub(crate) fn answered(&mut self, kind: Kind, status: [u8; 3]) {
        let class = status[0].saturating_sub(b'2');
        self.answers[kind as usize][usize::from(class).min(CLASSES - 1)] += 1;
    }
}

/// What the process knows of its region. Numbers of the moment: none of them is a promise (D3).
#[derive(Clone, Copy, Debug)]
struct Overview {
    medium: MediumKind,
    region_bytes: u64,
    usage: Usage,
    durable_lsn: u64,
    last_lsn: u64,
    is_read_only: bool,
    logs: u64,
    connections: u64,
    workers: u64,
    counts: Counts,
}

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Answers with how the region is, now: also when nothing more will be durable.
    pub(crate) fn answer_overview(&mut self, flow: &mut Flow, asked: &Asked) {
        let Asked { link, bodyless, skip, .. } = *asked;
        let overview = self.overview();
        let is_json = matches!(asked.call, Call::Region);
        self.reply(flow, Lsn(0), &[], |out| {
            if is_json {
                overview.write_json(out, link, bodyless);
            } else {
                overview.write_metrics(out, link, bodyless);
            }
        });
        self.go_on(flow, link, skip);
    }

    fn overview(&self) -> Overview {
        let store = &self.core.store;
        Overview {
            medium: self.core.medium.profile().kind,
            region_bytes: self.core.geometry.region_bytes(),
            usage: store.usage(),
            durable_lsn: store.durable().0,
            last_lsn: store.last_lsn().0,
            is_read_only: store.is_read_only(),
            logs: store.logs().count() as u64,
            connections: self.core.peers.iter().map(|peer| peer.flows as u64).sum(),
            workers: u64::from(self.core.workers),
            counts: self.core.counts,
        }
    }
}

impl Overview {
    /// Writes the answer for people and scripts.
    fn write_json(&self, out: &mut Vec<u8>, link: Link, bodyless: bool) {
        document(out, Status::Ok, "application/json", link, bodyless, |out| {
            put(out, "{\"medium\":\"");
            put(out, self.medium.name());
            put(out, "\",\"durable\":\"");
            put(out, durable(self.medium));
            put(out, "\"");
            let number = |out: &mut Vec<u8>, name: &str, value: u64| {
                put(out, ",\"");
                put(out, name);
                put(out, "\":");
                decimal(out, value);
            };
            number(out, "region_bytes", self.region_bytes);
            number(out, "buffer_bytes", u64::from(BUF_BYTES));
            put(out, ",\"buffers\":");
            for (index, (state, count)) in self.buffers().into_iter().enumerate() {
                put(out, if index == 0 { "{\"" } else { ",\"" });
                put(out, state);
                put(out, "\":");
                decimal(out, count);
            }
            put(out, "},\"read_only\":");
            put(out, if self.is_read_only { "true" } else { "false" });
            for (name, value) in self.gauges() {
                number(out, name, value);
            }
            put(out, "}\n");
        });
    }

    /// Writes the answer for Prometheus (text format 0.0.4).
    fn write_metrics(&self, out: &mut Vec<u8>, link: Link, bodyless: bool) {
        document(out, Status::Ok, "text/plain; version=0.0.4", link, bodyless, |out| {
            begin(out, "buffers", "gauge", "Buffers of 256 KiB by what they are used for.");
            for (state, count) in self.buffers() {
                sample(out, "buffers", &[("state", state)], count);
            }
            let bytes = [("region_bytes", self.region_bytes)];
            let flags = [
                ("durable", u64::from(self.medium != MediumKind::Shm)),
                ("read_only", u64::from(self.is_read_only)),
            ];
            for (name, value) in bytes.into_iter().chain(flags).chain(self.gauges()) {
                begin(out, name, "gauge", help(name));
                sample(out, name, &[], value);
            }
            let Counts { answers, received_bytes, sent_bytes, commits, commit_bytes } = self.counts;
            begin(out, "requests_total", "counter", "Requests by kind and class of the answer.");
            for ((_, kind), classes) in Kind::ALL.into_iter().zip(answers) {
                for (class, count) in ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(classes) {
                    sample(out, "requests_total", &[("kind", kind), ("class", class)], count);
                }
            }
            for (name, count) in [
                ("received_bytes_total", received_bytes),
                ("sent_bytes_total", sent_bytes),
                ("commits_total", commits),
                ("commit_bytes_total", commit_bytes),
            ] {
                begin(out, name, "counter", help(name));
                sample(out, name, &[], count);
            }
        });
    }

    fn buffers(&self) -> [(&'static str, u64); 4] {
        let Usage { free, log, landing, kept } = self.usage;
        [("free", free), ("log", log), ("landing", landing), ("kept", kept)]
            .map(|(state, count)| (state, u64::from(count)))
    }

    const fn gauges(&self) -> [(&'static str, u64); 5] {
        [
            ("durable_lsn", self.durable_lsn),
            ("last_lsn", self.last_lsn),
            ("logs", self.logs),
            ("connections", self.connections),
            ("workers", self.workers),
        ]
    }
}

/// Returns what an acknowledgement survives.
const fn durable(medium: MediumKind) -> &'static str {
    match medium {
        MediumKind::Disk | MediumKind::Pmem => "survives power loss, if the device honours flushes",
        MediumKind::Shm => "survives the end of the process, not a power loss or a reboot",
    }
}

fn help(name: &str) -> &'static str {
    match name {
        "region_bytes" => "Size of the region.",
        "durable" => "1 if an acknowledgement survives power loss.",
        "read_only" => "1 once the medium has failed, until a restart.",
        "durable_lsn" => "Every effect up to this number is durable.",
        "last_lsn" => "Number of the last effect.",
        "logs" => "Logs, also those without records.",
        "connections" => "Open connections.",
        "workers" => "Threads that serve.",
        "received_bytes_total" => "Bytes received from clients.",
        "sent_bytes_total" => "Bytes sent to clients.",
        "commits_total" => "Commits given to the medium.",
        _ => "Bytes of the commits given to the medium.",
    }
}

fn begin(out: &mut Vec<u8>, name: &str, kind: &str, help: &str) {
    for (what, text) in [("HELP", help), ("TYPE", kind)] {
        put(out, "# ");
        put(out, what);
        put(out, " impasto_");
        put(out, name);
        put(out, " ");
        put(out, text);
        put(out, "\n");
    }
}

fn sample(out: &mut Vec<u8>, name: &str, labels: &[(&str, &str)], value: u64) {
    put(out, "impasto_");
    put(out, name);
    for (index, (label, text)) in labels.iter().enumerate() {
        put(out, if index == 0 { "{" } else { "," });
        put(out, label);
        put(out, "=\"");
        put(out, text);
        put(out, "\"");
    }
    put(out, if labels.is_empty() { " " } else { "} " });
    decimal(out, value);
    put(out, "\n");
}
