//! What is asked of the servers: each workload is a group of cells that are measured together.

use std::{fmt, net::SocketAddr, time::Duration};

use super::variants::{Contender, Variant};
use crate::{
    baselines::Medium,
    bed::Bed,
    cli::Failure,
    client::{self, Plan},
    load::trim,
    process::Server,
    protocol::Request,
    statistics::Random,
};

/// A group of cells: every contender at every point.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) points: Vec<Point>,
    pub(super) contenders: Vec<Contender>,
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) ask: Ask,
    pub(super) connections: usize,
    /// Requests on the way on each connection.
    pub(super) depth: usize,
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The authors' published one: 1,156 bytes, of which 1,024 are stored; 151 bytes come back.
    Post,
    /// The authors' other one: 44 bytes, and 151 come back.
    Read,
    /// A body of so many bytes.
    Body(u64),
    /// As `Post`, on a connection of its own.
    Short,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What README quotes, in two minutes.
    Quick,
    /// All of it.
    Full,
}

/// Names and meanings of all workloads.
pub(super) const NAMES: [(&str, &str); 7] = [
    ("post", "1 KB POST, a request of 1,156 B and a reply of 151 B, by connections"),
    ("read", "read of a small record, 44 B and 151 B, by connections"),
    ("sizes", "POST of 64 B to 1 MB"),
    ("depth", "1 KB POST, 1, 16 and 50 requests on the way on each connection"),
    ("workers", "1 KB POST, one worker and two"),
    ("short", "1 KB POST, each on a connection of its own"),
    ("latency", "1 KB POST on memory whose fences take 0 and 10 us longer"),
];

/// Returns the workload `name` of `extent`, for the variants of it that are among `variants`.
pub(super) fn workload(name: &str, extent: Extent, variants: &[Variant]) -> Option<Workload> {
    let (name, about) = NAMES.into_iter().find(|(known, _)| *known == name)?;
    let plain = |wanted: &dyn Fn(&Variant) -> bool| -> Vec<Contender> {
        variants.iter().filter(|variant| wanted(variant)).map(|variant| variant.plain()).collect()
    };
    let at = |ask, connections| Point { ask, connections, depth: 1 };
    let every: &[usize] = match extent {
        Extent::Quick => &[8, 32, 100],
        Extent::Full => &[1, 8, 32, 50, 100, 400, 1000],
    };
    let by_connections = |ask| every.iter().map(|count| at(ask, *count)).collect::<Vec<_>>();
    let (points, contenders) = match name {
        "post" => (by_connections(Ask::Post), plain(&|_| true)),
        // Nothing is written, so what makes it durable differs in nothing.
        "read" => (by_connections(Ask::Read), plain(&|v| v.medium != Medium::Disk)),
        "sizes" => {
            let sizes = [64, 100, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20];
            let points = sizes.map(|bytes| at(Ask::Body(bytes), 32)).to_vec();
            (points, plain(&|v| !v.name.ends_with("poll")))
        }
        "depth" => {
            let depths: &[usize] = if extent == Extent::Quick { &[16] } else { &[1, 16, 50] };
            let points = depths.iter().map(|depth| Point { depth: *depth, ..at(Ask::Post, 32) });
            (points.collect(), plain(&|v| !v.name.ends_with("poll")))
        }
        "workers" => {
            let ours = plain(&|v| matches!(v.name, "impasto-shm" | "impasto-disk"));
            let two = ours.iter().map(|one| Contender { workers: 2, ..*one });
            (vec![at(Ask::Post, 32), at(Ask::Post, 100)], two.chain(ours.clone()).collect())
        }
        "short" => (vec![at(Ask::Short, 8), at(Ask::Short, 32)], plain(&|_| true)),
        _ => {
            let usual = plain(&|v| v.medium == Medium::Memory && !v.name.ends_with("poll"));
            // One has no fence that could take longer.
            let fenced = usual.iter().filter(|one| one.variant.name != "impasto-off");
            let slower = fenced.map(|one| Contender { fence_ns: 10_000, ..*one });
            let all = slower.chain(usual.clone()).collect();
            ([1, 50, 100].map(|count| at(Ask::Post, count)).to_vec(), all)
        }
    };
    Some(Workload { name, about, points, contenders })
}

impl Point {
    /// Returns what a client does in a window.
    pub(super) fn plan(self, bed: &Bed, server: &Server) -> Plan {
        let address = server.address();
        let request = self.request(address);
        let log = if matches!(self.ask, Ask::Body(_)) { LOG } else { SEEDS_LOG };
        let trims = (self.ask != Ask::Read).then(|| trim(address, log, bed.region / 8));
        let plan = bed.plan(server, self.connections, request, trims);
        Plan { pipeline: self.depth, short: self.ask == Ask::Short, ..plan }
    }

    fn request(self, address: SocketAddr) -> Request {
        let post = |log, bytes: u64| {
            let body = Random::new(bytes).bytes(usize::try_from(bytes).expect("it fits in memory"));
            Request::new("POST", address, log, &body).expect_status(201)
        };
        let seeds = post(SEEDS_LOG, POST_BODY);
        match self.ask {
            Ask::Post => seeds.padded_to(POST_REQUEST_BYTES).expect("there is room to fill"),
            Ask::Short => seeds.closing(),
            Ask::Body(bytes) => post(LOG, bytes),
            Ask::Read => Request::new("GET", READ_HOST, READ_PATH, b"").expect_body(stored()),
        }
    }

    /// Has the server store what is read.
    pub(super) fn prepare(self, server: &Server) -> Result<(), Failure> {
        if self.ask == Ask::Read {
            let address = server.address();
            let append = Request::new("POST", address, READ_LOG, &stored()).expect_status(201);
            let path = client::append(address, &append, PATIENCE)?;
            if path != READ_PATH {
                return Err(format!("the record to be read is {path}, not {READ_PATH}").into());
            }
        }
        Ok(())
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ask {
            Ask::Post => write!(f, "1 KB POST")?,
            Ask::Read => write!(f, "44-byte read")?,
            Ask::Body(bytes) => write!(f, "{} POST", size(bytes))?,
            Ask::Short => write!(f, "1 KB POST on a connection of its own")?,
        }
        let s = if self.connections == 1 { "" } else { "s" };
        write!(f, ", {} connection{s}", self.connections)?;
        if self.depth > 1 {
            write!(f, ", {} on the way on each", self.depth)?;
        }
        Ok(())
    }
}

/// Returns a number of bytes as the papers of this field write it: a KB has 1,024.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

/// What is read: with Impasto's head of 129 bytes, 151 come back, as in the published run.
fn stored() -> Vec<u8> {
    Random::new(1).bytes(STORED_BYTES)
}

const LOG: &str = "/v1/logs/compare";
/// With this name a reply of Impasto has 151 bytes, as long as numbers of records have six digits.
const SEEDS_LOG: &str = "/v1/logs/a-log-whose-name-makes-its-replies-151-bytes-ok";
const POST_BODY: u64 = 1024;
const POST_REQUEST_BYTES: usize = 1156;
const READ_LOG: &str = "/v1/logs/r";
const READ_PATH: &str = "/v1/logs/r/1";
const READ_HOST: &str = "0.0.0.0";
const STORED_BYTES: usize = 22;
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::variants;

    /// A name that is offered and means nothing is found out at the end of an hour.
    #[test]
    fn every_name_is_a_workload_with_a_reference_for_each_medium() {
        let (variants, _) = variants::all();
        for extent in [Extent::Quick, Extent::Full] {
            for (name, _) in NAMES {
                let found = workload(name, extent, &variants).unwrap();
                assert!(!found.points.is_empty(), "{name}");
                for contender in &found.contenders {
                    let reference = contender.reference_among(&found.contenders);
                    let is_reference = contender.variant.name == contender.variant.reference();
                    assert!(reference.is_some() || is_reference, "{name}: {contender}");
                }
            }
        }
        assert!(workload("nothing", Extent::Full, &variants).is_none());
    }

    /// The published figures are those of requests of exactly these lengths.
    #[test]
    fn requests_are_as_long_as_the_published_ones() {
        let address = "127.0.0.1:54321".parse().unwrap();
        let request = |ask| Point { ask, connections: 1, depth: 1 }.request(address);
        assert_eq!(request(Ask::Read).len_bytes(), 44);
        assert_eq!(request(Ask::Post).len_bytes(), 1156);
    }
}
