//! [`v1b`](super::v1b), with replies that the kernel sends from where they are (`MSG_ZEROCOPY`,
//! Documentation/networking/msg_zerocopy.rst).
//!
//! The kernel pins the pages of a reply and says later, on the socket's error queue, that they are
//! free; until then the reply stays as it is. That costs more than copying 151 bytes, which the
//! kernel's documentation says, too: it begins to pay at about 10 KB. Over loopback it never does,
//! because there the kernel copies after all.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::IoSliceMut,
    mem,
    os::fd::{AsRawFd, OwnedFd},
};

use impasto::{
    media::CpuLines,
    region::{Region, layout::MediumKind},
};
use nix::{
    cmsg_space, libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrIn, recvmsg},
};
use rustix::{
    io::Errno,
    net::{SendFlags, send},
};

use super::{
    Start,
    engine::{Connection, Variant},
    logs::Place,
    memory::{self, Memory},
    record::Record,
};
use crate::{cli::Failure, lines::Delayed, stages::Stages};

#[derive(Debug)]
struct ZeroCopy {
    memory: Memory,
    lines: Delayed<CpuLines>,
    /// Memory of replies that have left.
    spare: Vec<Vec<u8>>,
    /// With the lock.
    _region: Region,
}

/// Replies that the kernel may still read, by the number of their send.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    is_on: bool,
    next: u32,
    replies: VecDeque<(u32, Vec<u8>)>,
}

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    let region = start.region(MediumKind::Shm)?;
    let lines = Delayed::new(CpuLines::detect(), start.fence_delay);
    let memory = Memory::new(&region, memory::touched(&region)?);
    start.serve(ZeroCopy { memory, lines, spare: Vec::new(), _region: region })
}

impl Variant for ZeroCopy {
    type State = InFlight;

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        Ok(self.memory.append(record))
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        self.memory.persist(&mut self.lines, stages);
        Ok(())
    }

    fn empty(&mut self) {
        self.memory.begin_anew();
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        Ok(self.memory.read(place, out))
    }

    fn send(&mut self, connection: &mut Connection<InFlight>) -> bool {
        let Connection { stream, replies, state, .. } = connection;
        if replies.is_empty() {
            return true;
        }
        if !state.is_on {
            state.is_on = true;
            if SetZeroCopy.set(stream, &true).is_err() {
                return false;
            }
        }
        match send(&*stream, replies, SendFlags::NOSIGNAL | ZEROCOPY) {
            Ok(sent) => {
                let mut next = self.spare.pop().unwrap_or_default();
                next.extend_from_slice(&replies[sent..]);
                state.replies.push_back((state.next, mem::replace(replies, next)));
                state.next = state.next.wrapping_add(1);
                true
            }
            // The socket may pin no more: this once it copies.
            Err(Errno::NOBUFS) => connection.send(),
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    fn look_at_errors(&mut self, connection: &mut Connection<InFlight>) {
        while let Some(end) = completed(&connection.stream) {
            let replies = &mut connection.state.replies;
            // All sends up to this one: TCP completes them in order.
            while let Some((number, _)) = replies.front()
                && end.wrapping_sub(*number) < u32::MAX / 2
            {
                let (_, mut reply) = replies.pop_front().expect("seen above");
                reply.clear();
                self.spare.push(reply);
            }
        }
    }
}

/// Returns the number of a send up to which the kernel needs nothing any more.
fn completed(socket: &OwnedFd) -> Option<u32> {
    let mut nothing: [IoSliceMut<'_>; 0] = [];
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_raw_fd();
    let message = recvmsg::<SockaddrIn>(fd, &mut nothing, Some(&mut control), flags).ok()?;
    match message.cmsgs().ok()?.next()? {
        ControlMessageOwned::Ipv4RecvErr(end, _) | ControlMessageOwned::Ipv6RecvErr(end, _) => {
            Some(end.ee_data)
        }
        _ => None,
    }
}

/// `SO_ZEROCOPY`.
#[derive(Clone, Copy, Debug)]
struct SetZeroCopy;

nix::setsockopt_impl!(
    SetZeroCopy,
    libc::SOL_SOCKET,
    libc::SO_ZEROCOPY,
    bool,
    nix::sys::socket::sockopt::SetBool
);

const ZEROCOPY: SendFlags = SendFlags::from_bits_retain(0x0400_0000);
