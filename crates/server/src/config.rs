//! Every limit of the server, with its reason.

use std::time::Duration;

use impasto_region::layout::Geometry;

/// Most bytes of a request's head; one that is longer gets 431.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a request's target; one that is longer gets 414 (RFC 9112, 3, wants 8000).
pub const TARGET_BYTES_MAX: usize = 8 << 10;
/// Most fields of a request's head. Browsers and proxies send 20 to 40.
pub const HEADERS_MAX: usize = 100;
/// Most bytes of a value, whatever the options say.
pub const VALUE_BYTES_MAX: u32 = 64 << 20;
/// A value up to this length can stand in its record. A longer one takes reserved blocks.
pub const INLINE_BYTES_MAX: u32 = 64 << 10;
/// A value that stays where it landed has at most so many pieces: a record names each in 12 bytes.
/// One of 64 KiB in packets of 4 KiB has 16, since pieces that adjoin are one.
pub const PIECES_MAX: usize = 16;

/// Of a body of which so much is to come, the rest is directed to its blocks. Less is not worth the
/// two turns that it takes to stop a receive and to start it again.
pub(crate) const DIRECT_BYTES_MIN: u32 = 512 << 10;
/// Most bytes that one directed receive takes: their checksum is made under the lock, in 60 us.
pub(crate) const PIECE_BYTES_MAX: u32 = 1 << 20;
/// Likewise if the sender has given a digest to be verified: sha-256 is made at 0.4 to 2 GB/s.
pub(crate) const VERIFIED_BYTES_MAX: u32 = 128 << 10;
/// So much of an answer at most is given a digest, if one is asked for: it is made under the lock.
pub(crate) const DIGESTED_BYTES_MAX: u32 = 1 << 20;
/// So many flows of a worker are directed at a time, what comes on others lands: each access to the
/// frames looks at every span on loan.
pub(crate) const DIRECTED_MAX: usize = 16;
/// A flow of which less has come at once makes room for one that is faster, if there is none.
pub(crate) const SLOW_BYTES_MAX: u32 = 4 << 10;

/// A refused body up to this length is skipped, and the connection goes on; a longer one ends it.
pub const SKIP_BYTES_MAX: u64 = 64 << 10;
/// After the last answer, so much of what the peer still sends is read and discarded: with bytes
/// unread, a close would reset the connection, and the peer would not see the answer.
pub const DISCARD_BYTES_MAX: u64 = 1 << 20;
/// And for so long.
pub const DISCARD_TIME: Duration = Duration::from_secs(5);
/// A clean stop gives requests so long to be answered.
pub const STOP_TIME: Duration = Duration::from_secs(10);

/// A turn takes so much of what has landed, and the next one follows at once: parsed under the lock
/// that all workers share, what one peer sends in small pieces would keep all others waiting. What
/// is made of stored records counts as well.
pub const TURN_BYTES_MAX: u64 = 1 << 20;
/// If deadlines are looked at so much too late, the process has stood still.
pub(crate) const STANDSTILL_MAX: Duration = Duration::from_secs(1);
/// A connection with so many bytes to be sent, stored values included, is not read on.
pub const OUTPUT_BYTES_MAX: u64 = 256 << 10;
/// Nor one with so many replies to be sent.
pub const OUTPUT_REPLIES_MAX: usize = 1024;
/// What arrives for flows that cannot go on is kept, up to so much for all flows of a worker; then
/// nobody is received from until there is less of it, and clients that send and take no replies are
/// cut off.
pub const BACKLOG_BYTES_MAX: usize = 64 << 20;
/// Records in a row are so many bytes of values at most, unless the first one alone is more.
pub const BATCH_BYTES_MAX: u64 = 256 << 10;
/// Most bytes of memory that one reply takes. Records in a row: 256 KiB of short values, and 1000
/// times 24 bytes before them; or one line of JSON, with a value of 64 KiB whose bytes are all
/// escaped.
pub const REPLY_BYTES_MAX: u64 = 388 << 10;
/// A stored value up to this length is copied behind its head: cheaper than a part of its own.
pub const COPY_BYTES_MAX: u32 = 512;

/// A vector with more capacity is not pooled: output and backlog seldom grow beyond.
pub(crate) const POOLED_BYTES_MAX: usize = 256 << 10;
/// Most vectors of a kind that are pooled: 32 MiB of the largest, usually far below 1 MiB.
pub(crate) const POOLED_MAX: usize = 128;

/// What a user may set.
#[derive(Clone, Debug)]
pub struct Options {
    /// A body longer than this gets 413; at most [`VALUE_BYTES_MAX`].
    pub value_bytes_max: u32,
    /// A connection without a request is closed after this; `None`: never.
    pub idle: Option<Duration>,
    /// A head that is not whole after this gets 408; so long a new connection has for its first
    /// byte, too.
    pub head: Duration,
    /// A body of which nothing comes for so long gets 408. A client has so long, and a second for
    /// each KiB, to take its replies.
    pub body: Duration,
    /// Pages of these origins may send requests from a browser, as `https://example.org`; `*`: all
    /// pages. Without it only those that stand at the address that the request goes to.
    pub allow_origin: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            value_bytes_max: VALUE_BYTES_MAX,
            idle: Some(Duration::from_secs(300)),
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            allow_origin: Vec::new(),
        }
    }
}

/// A body has to come, and replies have to be taken, at this rate, after a time of
/// [`Options::body`]: what is reserved for the one, and pinned for the other, is kept from others.
pub(crate) const BYTES_PER_SECOND_MIN: u64 = 1 << 10;

/// Returns how many landing buffers the port of each of so many workers gets: together a sixteenth
/// of the region, but 2 each at least, so that one may fill while the other is parsed, and 64 (16
/// MiB) each at most, which is 0.13 s at 1 Gb/s. A worker that is alone gets 4 at least.
pub fn landing_bufs(geometry: Geometry, workers: u32) -> u32 {
    let least = if workers == 1 { 4 } else { 2 };
    (geometry.bufs() / 16 / workers).clamp(least, 64)
}

/// Returns how many workers a region has room for that has their landing buffers in it: an eighth
/// of it.
pub fn workers_max(geometry: Geometry) -> u32 {
    (geometry.bufs() / 8 / 2).max(1)
}
