//! Transfer of a file descriptor over a unix socket.
//!
//! Owns the one call to sendmsg(2) that carries a descriptor (unix(7), `SCM_RIGHTS`). Refuses to own the
//! bytes beside it: `qmp` passes files to QEMU, and `hold` passes the monitor connection to the guardian.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Sends bytes with a descriptor, and returns the number of bytes sent. The descriptor travels with the
/// first byte, so it has been sent unless the result is an error.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    // The buffer has room: `cmsg_space` reserves the size of one descriptor.
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
}
