//! Postgres: a prepared upsert, committed with `synchronous_commit=on`.

use std::{fs, net::SocketAddr, path::PathBuf};

use super::{Found, Keeps, Peer, Place, talk::Talk};
use crate::{cli::Failure, client::Dialect, protocol::postgres::CREATE};

pub(super) const PEER: Peer = Peer {
    name: "postgres",
    install: "apt-get install postgresql",
    find,
    keeps: &[Keeps::Durable],
    as_root: false,
    // A segment of System V's shared memory, which outlives a process.
    asked: true,
    crowded: true,
    ports: 1,
    command,
    answers,
    verify,
    dialect: || Dialect::Postgres {
        user: USER.into(),
        database: USER.into(),
        // Done once, by the script.
        creates: false,
    },
};

/// Debian keeps it out of PATH, each version in a directory of its own.
fn find() -> Option<Found> {
    let versions = fs::read_dir(DEBIAN_DIR).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin/postgres")))
        .filter(|(_, path)| path.is_file() && path.with_file_name("initdb").is_file())
        .collect();
    found.sort();
    let in_path = Found::in_path("postgres", &["--version"]);
    let is_whole = |found: &Found| found.program.with_file_name("initdb").is_file();
    in_path.filter(is_whole).or_else(|| Found::at(found.pop()?.1, &["--version"]))
}

fn command(place: &Place) -> Vec<String> {
    let initdb = place.found.program.with_file_name("initdb").to_string_lossy().into_owned();
    let mut command = ["/bin/sh", "-c", SCRIPT, "sh", &initdb].map(str::to_owned).to_vec();
    command.extend(place.with_program(&[&place.dir(), CREATE]));
    let own =
        [format!("port={}", place.ports[0]), format!("max_connections={}", place.connections + 20)];
    let settings = SETTINGS.iter().copied().chain(own.iter().map(String::as_str));
    command.extend(settings.flat_map(|setting| ["-c".to_owned(), setting.to_owned()]));
    command
}

fn answers(address: SocketAddr) -> Result<(), Failure> {
    Session::open(address).map(drop)
}

fn verify(place: &Place, address: SocketAddr, _pid: u32) -> Result<String, Failure> {
    let mut session = Session::open(address)?;
    super::expect("data_directory", &place.dir(), &session.show("data_directory")?)?;
    let wanted = [("synchronous_commit", "on"), ("fsync", "on"), ("full_page_writes", "on")];
    let found = super::expect_all(&wanted, |name| session.show(name))?;
    Ok(format!("{found}, wal_sync_method {}", session.show("wal_sync_method")?))
}

/// Its protocol, version 3: as much as it takes to ask for a setting.
struct Session(Talk);

impl Session {
    fn open(address: SocketAddr) -> Result<Self, Failure> {
        let mut session = Self(Talk::open(address)?);
        let hello = [&VERSION_3[..], b"user\0postgres\0database\0postgres\0\0"].concat();
        session.0.say(&with_length(&hello))?;
        session.until_ready()?;
        Ok(session)
    }

    fn show(&mut self, name: &str) -> Result<String, Failure> {
        let query = with_length(format!("SHOW {name}\0").as_bytes());
        self.0.say(&[b"Q", &query[..]].concat())?;
        self.until_ready()
    }

    /// Returns the last column of the last row that comes before it is ready for the next query.
    fn until_ready(&mut self) -> Result<String, Failure> {
        // A row: the number of columns, each column's length, its bytes.
        const BEFORE_COLUMN: usize = 2 + 4;
        let mut value = String::new();
        loop {
            let head = self.0.bytes(5)?;
            let length = usize::try_from(number(&head[1..]))?.saturating_sub(4);
            let body = self.0.bytes(length)?;
            match head[0] {
                b'D' => {
                    let column = body.get(BEFORE_COLUMN..).unwrap_or_default();
                    value = String::from_utf8_lossy(column).into_owned();
                }
                b'E' => return Err(String::from_utf8_lossy(&body).replace('\0', " ").into()),
                b'Z' => return Ok(value),
                _ => {}
            }
        }
    }
}

#[expect(clippy::big_endian_bytes, reason = "its protocol is")]
fn with_length(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&length.to_be_bytes(), body].concat()
}

#[expect(clippy::big_endian_bytes, reason = "its protocol is")]
fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("4 bytes"))
}

const VERSION_3: [u8; 4] = [0, 3, 0, 0];
/// Its first user, and that one's database.
const USER: &str = "postgres";
const DEBIAN_DIR: &str = "/usr/lib/postgresql";

/// A new cluster, a table, and the server in the place of the shell.
const SCRIPT: &str = r#"set -e
initdb=$1 postgres=$2 dir=$3 table=$4
shift 4
"$initdb" -D "$dir" -U postgres -A trust -E UTF8 --no-locale --no-sync --no-instructions
echo "$table" |
    "$postgres" --single -D "$dir" postgres > /dev/null
exec "$postgres" -D "$dir" "$@""#;

const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "synchronous_commit=on",
    "fsync=on",
    "full_page_writes=on",
    "logging_collector=off",
    // In its directory: what it has in /dev/shm would outlive it if it is killed.
    "dynamic_shared_memory_type=mmap",
];
