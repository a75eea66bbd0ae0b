//! System calls that are given addresses: of stored bytes, which nobody has borrowed.
//!
//! What is sent or written stands in frames that other workers use meanwhile, behind a lock that is
//! not held here. So there is no `&[u8]` of it, only an address; the kernel reads, and whoever has
//! started the operation leaves these bytes as they are until it completes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use impasto_region::{Frames, Map, Span};
use impasto_uring::{Iovec, Message, Piece};
use libc::c_long;

/// Mappings with bytes that are sent.
#[derive(Debug, Default)]
pub(crate) struct Maps(Vec<Arc<Map>>);

/// A message, with bytes of a mapping that its [`Maps`] keep.
#[derive(Debug)]
pub(crate) struct Outgoing(Box<Message>);

impl Maps {
    /// Keeps the memory of `frames` mapped.
    pub(crate) fn keep(&mut self, frames: &Frames) {
        if !self.0.iter().any(|map| frames.are(map)) {
            self.0.push(frames.map());
        }
    }

    /// Makes a message of `pieces`.
    ///
    /// # Panics
    /// If a piece lies outside of `bytes` or of the frames, or its bytes may still be written.
    pub(crate) fn message(
        &mut self,
        mut message: Box<Message>,
        frames: &Frames,
        bytes: Vec<u8>,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Outgoing {
        self.keep(frames);
        message.fill(frames, bytes, pieces);
        Outgoing(message)
    }

    /// Sends what the socket takes now of a message made by these; returns true if something is
    /// left.
    pub(crate) fn send(&self, socket: impl AsFd, outgoing: &mut Outgoing) -> io::Result<bool> {
        const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let socket = socket.as_fd().as_raw_fd();
        let sent = match outgoing.0.rest() {
            [] => return Ok(false),
            // What most replies are; it is cheaper.
            [Iovec { base, len }] => {
                // SAFETY: the bytes are the message's own, or in a mapping that `message` made
                // `self` keep. The kernel only reads them.
                unsafe { libc::send(socket, base.cast(), *len, FLAGS) }
            }
            rest => {
                // SAFETY: all of a `msghdr` may be zero: no address, no control, no flags.
                let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
                header.msg_iov = rest.as_ptr().cast_mut().cast();
                header.msg_iovlen = rest.len() as _;
                // SAFETY:
                // - `header` and its iovecs live across the call; `Iovec` is `struct iovec`, see
                //   below.
                // - the bytes: as above.
                unsafe { libc::sendmsg(socket, &raw const header, FLAGS) }
            }
        };
        let sent = u32::try_from(count(sent as c_long)?).expect("one call sends less than 2 GiB");
        Ok(outgoing.0.advance(sent))
    }
}

impl Outgoing {
    /// Returns the number of bytes sent.
    pub(crate) fn sent(&self) -> u32 {
        self.0.sent()
    }

    /// Takes it apart: the bytes go back to their owner, the rest is for the next message.
    pub(crate) fn into_parts(mut self) -> (Vec<u8>, Box<Message>) {
        (self.0.take_bytes(), self.0)
    }
}

/// Writes the bytes of `span` to the same offset of `file`; with `dsync` they are durable when it
/// returns.
///
/// # Errors
/// What the kernel says; `Unsupported` if it does not know `RWF_DSYNC` here.
pub(crate) fn write(file: impl AsFd, map: &Map, span: Span, dsync: bool) -> io::Result<u32> {
    let len = usize::try_from(span.len).expect("an operation has less than 4 GiB");
    let iovec = libc::iovec { iov_base: map.address(span).as_ptr().cast(), iov_len: len };
    let flags = if dsync { libc::RWF_DSYNC } else { 0 };
    // In two registers where one has 32 bits; else the kernel looks at the first alone.
    let at = span.at.cast_signed();
    let (low, high) = (at as c_long, (at >> 32) as c_long);
    let file = file.as_fd().as_raw_fd();
    let number = if dsync { libc::SYS_pwritev2 } else { libc::SYS_pwritev };
    // SAFETY:
    // - these are the arguments of pwritev2, the last of which pwritev does not look at.
    // - `iovec` lives across the call, and names bytes inside of the mapping, asserted by
    //   `address`, which `map` keeps. The kernel only reads them.
    let written =
        unsafe { libc::syscall(number, file, &raw const iovec, c_long::from(1), low, high, flags) };
    match count(written) {
        Err(error) if dsync && is_unknown(&error) => Err(io::ErrorKind::Unsupported.into()),
        written => Ok(u32::try_from(written?).expect("an operation has less than 4 GiB")),
    }
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

fn count(returned: c_long) -> io::Result<u64> {
    u64::try_from(returned).map_err(|_negative| io::Error::last_os_error())
}

const _: () = assert!(
    size_of::<Iovec>() == size_of::<libc::iovec>()
        && align_of::<Iovec>() == align_of::<libc::iovec>()
);
