//! The TCP connections of a network namespace: listed and ended through `sock_diag(7)`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use std::os::fd::{AsRawFd, BorrowedFd};

use interceptor_common::Flow;

use super::bpf;
use super::netlink::{ACKNOWLEDGE, Attributes, DUMP, ask, each, number};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `AF_INET` and `AF_INET6` in one byte.
const INET: u8 = 2;
const INET6: u8 = 10;
/// Bytes of `inet_diag_sockid`.
const ID: usize = 48;
/// Bytes of `inet_diag_msg`.
const MESSAGE: usize = 72;

/// States in which data may still come or go: established, being opened, half closed.
const LIVE: u32 = 1 << 1 | 1 << SYN_SENT | 1 << 4 | 1 << 5 | 1 << 8;
/// `TCP_SYN_SENT`.
const SYN_SENT: u8 = 2;

/// States from the SYN until nothing can come or go any more: the above, and those in which a FIN is
/// not acknowledged.
const NOT_OVER: u32 = LIVE | 1 << 9 | 1 << 11;

/// Which attribute to send along: bit of `INET_DIAG_INFO`.
const WITH_INFO: u8 = 1 << (INFO - 1);
/// `INET_DIAG_INFO`.
const INFO: u16 = 2;

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

/// A connection, and what a map of socket storage knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Where it is.
    pub(crate) connection: Connection,
    /// What the map says of its socket, if anything.
    pub(crate) flow: Option<Flow>,
    /// Its state, as in `tcp_states.h`.
    pub(crate) state: u8,
    /// What it has carried.
    pub(crate) carried: Carried,
}

/// What a connection has carried, in the kernel's own terms (`tcp_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Sequence numbers acknowledged: payload, SYN and FIN.
    pub(crate) acknowledged: u64,
    /// Sequence numbers received after the handshake: payload and FIN.
    pub(crate) received: u64,
    /// The smoothed round trip in microseconds.
    pub(crate) round_trip_us: u32,
    /// Segments sent again.
    pub(crate) retransmits: u32,
}

impl Connection {
    /// The connection between these two whose own end has this `cookie`, wherever it is.
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr, cookie: u64) -> Self {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => {
                let mut octets = [0; 16];
                octets
                    .iter_mut()
                    .zip(v4.octets())
                    .for_each(|(to, from)| *to = from);
                octets
            }
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut id = Vec::with_capacity(ID);
        id.extend(local.port().to_be_bytes());
        id.extend(remote.port().to_be_bytes());
        id.extend(octets(local.ip()));
        id.extend(octets(remote.ip()));
        // The interface that the socket is bound to: none.
        id.extend([0; 4]);
        // In two numbers, the lower half first.
        for half in [cookie & u64::from(u32::MAX), cookie >> 32] {
            id.extend(u32::try_from(half).unwrap_or_default().to_ne_bytes());
        }
        Self {
            local,
            remote,
            opening: false,
            owned: true,
            family: if local.is_ipv4() { INET } else { INET6 },
            id,
        }
    }

    /// The cookie of its own end: a number that no other socket ever has.
    pub(crate) fn cookie(&self) -> u64 {
        let half = |at: usize| {
            self.id
                .get(at..at + 4)
                .and_then(number)
                .map_or(0, u64::from)
        };
        half(ID - 8) | half(ID - 4) << 32
    }

    /// Whether this is the same socket, and not merely the same addresses.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// The live connections of the calling thread's namespace.
pub(crate) fn connections() -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for family in [INET, INET6] {
        let request = request(family, LIVE, &[0; ID]);
        let mut keep = |answer: &[u8]| found.extend(read(answer));
        each(
            libc::NETLINK_SOCK_DIAG,
            (BY_FAMILY, DUMP),
            &request,
            &mut keep,
        )?;
    }
    Ok(found)
}

/// Looks at each connection of the calling thread's namespace that is not over, with what `map` has
/// for its socket.
pub(crate) fn stored(map: BorrowedFd<'_>, mut look: impl FnMut(Stored)) -> io::Result<()> {
    /// `INET_DIAG_REQ_SK_BPF_STORAGES`, and the nested `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
    const STORAGES: u16 = 2 | 1 << 15;
    const MAP: u16 = 1;
    for family in [INET, INET6] {
        let mut request = request(family, NOT_OVER, &[0; ID]);
        request.splice(2..3, [WITH_INFO]);
        request.extend(12_u16.to_ne_bytes());
        request.extend(STORAGES.to_ne_bytes());
        request.extend(8_u16.to_ne_bytes());
        request.extend(MAP.to_ne_bytes());
        request.extend(map.as_raw_fd().to_ne_bytes());
        let answer = |answer: &[u8]| {
            if let Some(socket) = read_stored(answer) {
                look(socket);
            }
        };
        each(libc::NETLINK_SOCK_DIAG, (BY_FAMILY, DUMP), &request, answer)?;
    }
    Ok(())
}

impl Stored {
    /// Whether the handshake is over.
    pub(crate) const fn is_established(&self) -> bool {
        self.state != SYN_SENT
    }
}

/// Reads one `inet_diag_msg` with the storage of its socket.
fn read_stored(message: &[u8]) -> Option<Stored> {
    /// `INET_DIAG_SK_BPF_STORAGES`, in it `SK_DIAG_BPF_STORAGE`, in it
    /// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
    const STORAGES: u16 = 20;
    const STORAGE: u16 = 1;
    const VALUE: u16 = 3;
    let connection = read(message)?;
    let attribute = |of: &'static [u16]| {
        let first = Attributes(message.get(MESSAGE..)?);
        of.iter().try_fold(first.0, |value, kind| {
            let mut all = Attributes(value);
            all.find(|(found, _)| found == kind).map(|(_, value)| value)
        })
    };
    Some(Stored {
        flow: attribute(&[STORAGES, STORAGE, VALUE]).and_then(bpf::value),
        state: *message.get(1)?,
        carried: attribute(&[INFO]).and_then(carried).unwrap_or_default(),
        connection,
    })
}

/// Reads the fields of `tcp_info` that matter.
fn carried(info: &[u8]) -> Option<Carried> {
    let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    Some(Carried {
        acknowledged: long(120)?,
        received: long(128)?,
        round_trip_us: number(info.get(68..72)?)?,
        retransmits: number(info.get(100..104)?)?,
    })
}

/// The connection of the calling thread's namespace between these two, if there is one. One that is
/// bound to an interface is not found.
///
/// Unlike a list of all of them it costs the same however many there are.
pub(crate) fn find(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Connection>> {
    /// `INET_DIAG_NOCOOKIE`, in both halves.
    const ANY: u64 = u64::MAX;
    let Connection { family, id, .. } = Connection::new(local, remote, ANY);
    let request = request(family, u32::MAX, &id);
    match ask(libc::NETLINK_SOCK_DIAG, BY_FAMILY, 0, &request) {
        Ok(answers) => {
            let mut found = answers.iter().filter_map(|answer| read(answer));
            // Without a connection it is whoever listens there.
            Ok(found.find(|it| (it.local, it.remote) == (local, remote)))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
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
        let address = if family == INET {
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
            let again = found.iter().find(|it| it.local == local).unwrap();
            assert!(Connection::new(local, remote, again.cookie()).is(again));
            assert!(find(local, remote).unwrap().unwrap().is(again));
            assert_eq!(find(local, SocketAddr::new(remote.ip(), 1)).unwrap(), None);
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
