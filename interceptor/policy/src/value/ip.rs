//! Address blocks: an address or a CIDR, with IPv4-mapped IPv6 counted as IPv4.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::Covers;

/// Number of leading bits that mark an IPv4-mapped address.
const V4_MAPPED_PREFIX: u8 = 96;

/// A set of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpBlock(IpNet);

/// Why a text is not an address block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a CIDR: write it as 10.0.0.1 or 10.0.0.0/8")]
pub(crate) struct IpBlockError(String);

impl IpBlock {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The block as a network: no bits after the prefix, IPv4 wherever it can be.
    pub(crate) const fn network(self) -> IpNet {
        self.0
    }

    /// Whether the same set, with the bits after the prefix cleared, is what was written.
    pub(crate) fn is_written_as_network(text: &str) -> bool {
        text.parse::<IpNet>()
            .map_or(true, |net| net.addr() == net.network())
    }
}

impl FromStr for IpBlock {
    type Err = IpBlockError;

    fn from_str(text: &str) -> Result<Self, IpBlockError> {
        let wrong = || IpBlockError(text.to_owned());
        let net = if text.contains('/') {
            text.parse::<IpNet>().map_err(|_source| wrong())?
        } else {
            IpNet::from(text.parse::<IpAddr>().map_err(|_source| wrong())?)
        };
        Ok(Self(unmap(net).trunc()))
    }
}

impl Covers for IpBlock {
    fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }
}

/// The IPv4 block that a block within `::ffff:0:0/96` means.
fn unmap(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.addr().to_ipv4_mapped();
    match (mapped, v6.prefix_len().checked_sub(V4_MAPPED_PREFIX)) {
        (Some(v4), Some(length)) => Ipv4Net::new(v4, length).map_or(net, IpNet::V4),
        _ => net,
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}
