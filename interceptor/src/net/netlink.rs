//! Questions to the kernel over netlink: which interfaces a namespace has, and what is on the
//! other side of them.
//!
//! Only what is asked for is read; a message that is cut short or says something else is an error
//! or is skipped, never a guess.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x1;
/// `NLM_F_ROOT | NLM_F_MATCH`: everything.
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_ACK`: say so when it is done.
pub(super) const ACKNOWLEDGE: u16 = 0x4;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;

/// `RTM_GETLINK`.
const GET_LINK: u16 = 18;
/// `RTM_GETNSID`.
const GET_NAMESPACE_ID: u16 = 90;
/// Bytes of `ifinfomsg`.
const LINK_HEADER: usize = 16;

/// How long an answer may take; the kernel gives it within the system call.
const PATIENCE: Duration = Duration::from_secs(2);
/// Room for one read of a dump. The kernel fills at most 32 KiB.
const ROOM: usize = 64 * 1024;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number in its namespace.
    pub(crate) index: u32,
    /// Whether it is the loopback interface.
    pub(crate) loopback: bool,
    /// Its name.
    pub(crate) name: String,
    /// What it is, such as `veth`; `None` for hardware.
    pub(crate) kind: Option<String>,
    /// The number of the interface that it is connected to or built upon.
    pub(crate) other: Option<u32>,
    /// The number that this namespace gives the other interface's, if that is another one.
    pub(crate) other_namespace: Option<i32>,
}

/// The interfaces of the calling thread's namespace.
pub(crate) fn links() -> io::Result<Vec<Link>> {
    let answers = ask(libc::NETLINK_ROUTE, GET_LINK, DUMP, &[0; LINK_HEADER])?;
    Ok(answers.iter().filter_map(|answer| link(answer)).collect())
}

/// The number that the calling thread's namespace gives to `namespace`, if it gives it one.
pub(crate) fn id_of(namespace: impl AsFd) -> io::Result<Option<i32>> {
    const ID: u16 = 1;
    const DESCRIPTOR: u16 = 3;
    // `rtgenmsg`, padded, then one attribute.
    let mut body = vec![0; 4];
    body.extend(8_u16.to_ne_bytes());
    body.extend(DESCRIPTOR.to_ne_bytes());
    body.extend(namespace.as_fd().as_raw_fd().to_ne_bytes());
    let answers = ask(libc::NETLINK_ROUTE, GET_NAMESPACE_ID, 0, &body)?;
    let found = answers.first().and_then(|answer| {
        let (_, id) = Attributes(answer.get(4..)?).find(|(kind, _)| *kind == ID)?;
        number(id)
    });
    // The kernel says -1 for none.
    Ok(found.and_then(|id| i32::try_from(id).ok()))
}

/// Reads one `RTM_NEWLINK` message.
fn link(message: &[u8]) -> Option<Link> {
    const NAME: u16 = 3;
    const OTHER: u16 = 5;
    const INFO: u16 = 18;
    const KIND: u16 = 1;
    const OTHER_NAMESPACE: u16 = 37;
    const IS_LOOPBACK: u32 = 0x8;

    let mut link = Link {
        index: number(message.get(4..8)?)?,
        loopback: number(message.get(8..12)?)? & IS_LOOPBACK != 0,
        ..Link::default()
    };
    for (kind, value) in Attributes(message.get(LINK_HEADER..)?) {
        match kind {
            NAME => link.name = text(value),
            OTHER => link.other = number(value),
            OTHER_NAMESPACE => link.other_namespace = number(value).map(u32::cast_signed),
            INFO => {
                let found = Attributes(value).find(|(kind, _)| *kind == KIND);
                link.kind = found.map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
    Some(link)
}

/// Asks one question and returns the bodies of the answers.
pub(super) fn ask(family: i32, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut answers = Vec::new();
    each(family, (kind, flags), body, |answer| {
        answers.push(answer.to_vec());
    })?;
    Ok(answers)
}

/// Asks one question and looks at the body of each answer, of which none is kept: where there are
/// ten thousand sockets, ten megabytes would be.
pub(super) fn each(
    family: i32,
    (kind, flags): (u16, u16),
    body: &[u8],
    mut answer: impl FnMut(&[u8]),
) -> io::Result<()> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        Some(Protocol::from(family)),
    )?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    socket.send(&request)?;

    let mut buffer = vec![0; ROOM];
    loop {
        let length = (&socket).read(&mut buffer)?;
        let is_last = take(buffer.get(..length).unwrap_or_default(), &mut answer)?;
        if is_last || flags & DUMP == 0 {
            return Ok(());
        }
    }
}

/// Takes the messages of one read apart. True if no more follow.
fn take(mut read: &[u8], answer: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let cut_short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    while !read.is_empty() {
        let length = read.get(..4).and_then(number).ok_or_else(cut_short)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let kind = read
            .get(4..6)
            .and_then(|it| Some(u16::from_ne_bytes(it.try_into().ok()?)));
        let body = read.get(HEADER..length).ok_or_else(cut_short)?;
        match kind {
            Some(DONE) => return Ok(true),
            Some(ERROR) => {
                let errno = body.get(..4).and_then(number).ok_or_else(cut_short)?;
                let errno = errno.cast_signed().saturating_neg();
                if errno == 0 {
                    return Ok(true);
                }
                return Err(io::Error::from_raw_os_error(errno));
            }
            _ => answer(body),
        }
        read = read.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// The attributes of a message, by kind.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        /// Nested, or in network order: says how to read the value, not what it is.
        const FLAGS: u16 = 0xc000;
        let length = u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?);
        let value = self.0.get(4..usize::from(length))?;
        self.0 = self.0.get(aligned(length.into())..).unwrap_or_default();
        Some((kind & !FLAGS, value))
    }
}

/// Messages and attributes begin at multiples of four.
const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A number in the order of this machine.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A string that ends in a NUL.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Namespace;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let links = links().unwrap();
        let loopback = links.iter().find(|link| link.loopback).unwrap();
        assert_eq!((loopback.name.as_str(), loopback.index), ("lo", 1));
        assert_eq!(loopback.kind, None);
    }

    #[test]
    fn a_namespace_that_has_no_number_has_none() {
        // Its own is the one that it never numbers by itself.
        let here = Namespace::current().unwrap();
        assert!(id_of(&here).is_ok());
    }

    proptest! {
        #[test]
        fn nonsense_is_an_error_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut answers = 0;
            if take(&bytes, &mut |_body: &[u8]| answers += 1).is_ok() {
                prop_assert!(answers <= bytes.len() / HEADER + 1);
            }
            let _nothing = link(&bytes);
            prop_assert!(Attributes(&bytes).count() <= bytes.len());
        }
    }
}
