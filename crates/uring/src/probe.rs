//! What the kernel has to know.

use io_uring::{IoUring, Probe, opcode};

use crate::SetupError;

/// Checks that the kernel knows every operation that we start.
pub(crate) fn check_operations(ring: &IoUring) -> Result<(), SetupError> {
    const NEEDED: [(u8, &str); 14] = [
        (opcode::Nop::CODE, "IORING_OP_NOP"),
        (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
        (opcode::RecvMulti::CODE, "IORING_OP_RECV"),
        (opcode::Send::CODE, "IORING_OP_SEND"),
        (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
        (opcode::Read::CODE, "IORING_OP_READ"),
        (opcode::Write::CODE, "IORING_OP_WRITE"),
        (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
        (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
        (opcode::Timeout::CODE, "IORING_OP_TIMEOUT"),
        (opcode::Shutdown::CODE, "IORING_OP_SHUTDOWN"),
        (opcode::Close::CODE, "IORING_OP_CLOSE"),
        (opcode::MsgRingData::CODE, "IORING_OP_MSG_RING"),
    ];
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    probed.map_err(|error| SetupError::of(error, "IORING_REGISTER_PROBE"))?;
    match NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, missing)) => Err(SetupError::TooOld { missing }),
        None => Ok(()),
    }
}
