//! The TCP connections of a network namespace: listed and ended through `sock_diag(7)`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::netlink::{ACKNOWLEDGE, DUMP, ask, number};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// Bytes of `inet_diag_sockid`.
const ID: usize = 48;
/// Bytes of `inet_diag_msg`.
const MESSAGE: usize = 72;

/// States in which data may still come or go: established, being opened, half closed.
const LIVE: u32 = 1 << 1 | 1 << SYN_SENT | 1 << 4 | 1 << 5 | 1 << 8;
/// `TCP_SYN_SENT`.
const SYN_SENT: u8 = 2;

/// A TCP connection of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Its own end.
    pub(crate) local: SocketAddr,
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// Whether it is still being opened.
    pub(crate) opening: bool,
    /// Whether some process has it: false while it waits to be accepted.
    pub(crate) owned: bool,
    family: u8,
    /// As the kernel wants it back, with the cookie that no other socket ever has.
    id: Vec<u8>,
}

impl Connection {
    /// Whether this is the same socket, and not merely the same addresses.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// The live connections of the calling thread's namespace.
pub(crate) fn connections() -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).map_err(io::Error::other)?;
        let request = request(family, LIVE, &[0; ID]);
        let answers = ask(libc::NETLINK_SOCK_DIAG, BY_FAMILY, DUMP, &request)?;
        found.extend(answers.iter().filter_map(|answer| read(answer)));
    }
    Ok(found)
}

/// Ends a connection of the calling thread's namespace: both ends see a reset. False if it ended
/// by itself meanwhile.
pub(crate) fn destroy(connection: &Connection) -> io::Result<bool> {
    let request = request(connection.family, u32::MAX, &connection.id);
    match ask(libc::NETLINK_SOCK_DIAG, DESTROY, ACKNOWLEDGE, &request) {
        Ok(_nothing) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `inet_diag_req_v2` for TCP.
fn request(family: u8, states: u32, id: &[u8]) -> Vec<u8> {
    const TCP: u8 = 6;
    let mut request = vec![family, TCP, 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

/// Reads one `inet_diag_msg`.
fn read(message: &[u8]) -> Option<Connection> {
    let message = message.get(..MESSAGE)?;
    let (&[family, state, ..], id) = (message.first_chunk::<4>()?, message.get(4..4 + ID)?);
    let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| {
        let octets: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = octets;
        let address = if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        };
        Some(address)
    };
    Some(Connection {
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        opening: state == SYN_SENT,
        owned: number(message.get(68..72)?)? != 0,
        family,
        id: id.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_listed_from_both_ends() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _theirs = listener.accept().unwrap();
            let (local, remote) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            let found = connections().unwrap();
            for ends in [(local, remote), (remote, local)] {
                let found = found.iter().find(|it| (it.local, it.remote) == ends);
                let found = found.unwrap_or_else(|| panic!("{ends:?} is missing"));
                assert!(found.owned && !found.opening && found.is(found));
            }
        }
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(read(&[0; MESSAGE - 1]), None);
        assert_eq!(request(2, 0, &[0; ID]).len(), 56);
    }
}
