//! One question to `sock_diag(7)`, in bytes.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

const SOCK_DIAG: i32 = 4;
const SOCK_DESTROY: u16 = 21;
const REQUEST_AND_ACK: u16 = 5;
const LENGTH: usize = 72;

/// Asks for the destruction of a connection that cannot exist (from port 0 to port 0) and
/// returns what the kernel says.
pub(super) fn destroy_nothing() -> io::Result<Errno> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(SOCK_DIAG)),
    )?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(&request())?;
    let mut answer = [0_u8; 256];
    let length = io::Read::read(&mut &socket, &mut answer)?;
    parse(answer.get(..length).unwrap_or_default())
        .ok_or_else(|| io::Error::other("an answer that is not understood"))
}

/// `nlmsghdr` and `inet_diag_req_v2` for TCP over IPv4, all addresses and ports zero.
fn request() -> Vec<u8> {
    let mut request = Vec::with_capacity(LENGTH);
    request.extend(u32::try_from(LENGTH).unwrap_or_default().to_ne_bytes());
    request.extend(SOCK_DESTROY.to_ne_bytes());
    request.extend(REQUEST_AND_ACK.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([2, 6, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.resize(LENGTH, 0);
    request
}

/// The error in an `nlmsgerr`.
fn parse(answer: &[u8]) -> Option<Errno> {
    const ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == ERROR).then(|| Errno::from_raw(error.saturating_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let mut answer = vec![0; 36];
        answer[4] = 2;
        answer[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(parse(&answer), Some(Errno::ENOENT));
        assert_eq!(parse(&answer[..18]), None);
        assert_eq!(request().len(), LENGTH);
    }
}
