//! One address type for both families.

/// [`crate::RuleKey::family`] of IPv4, whatever the socket's family was.
pub const FAMILY_IPV4: u8 = 4;

/// [`crate::RuleKey::family`] of IPv6.
pub const FAMILY_IPV6: u8 = 6;

/// The third word of every IPv4-mapped address, as it lies in memory.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An IPv6 or IPv4-mapped address: four words, each in network order in memory.
///
/// Words rather than bytes because the kernel hands addresses out in words, and because the
/// verifier then sees four aligned loads instead of sixteen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Address(pub [u32; 4]);

const _: () = assert!(size_of::<Address>() == 16);

impl Address {
    /// No address: `::`.
    pub const NONE: Self = Self([0; 4]);

    /// The IPv4-mapped form of `word`, which is in network order.
    #[inline]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The address with these bytes, network order.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let o = octets;
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// Its bytes, network order.
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        ];
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// Whether this stands for an IPv4 address.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    #[inline]
    pub const fn family(&self) -> u8 {
        if self.is_v4() {
            FAMILY_IPV4
        } else {
            FAMILY_IPV6
        }
    }

    /// Whether this is [`Address::NONE`].
    #[inline]
    pub const fn is_none(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// Whether `connect(2)` to it ends at the caller's own loopback interface: 127/8, `::1`, and
    /// the unspecified addresses, which the kernel turns into loopback.
    #[inline]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            let [first, ..] = self.0[3].to_ne_bytes();
            return self.0[3] == 0 || first == 127;
        }
        self.0[0] == 0
            && self.0[1] == 0
            && self.0[2] == 0
            && (self.0[3] == 0 || self.0[3] == u32::from_ne_bytes([0, 0, 0, 1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn v4(octets: [u8; 4]) -> Address {
        Address::v4(u32::from_ne_bytes(octets))
    }

    #[test]
    fn octets_survive_the_round_trip() {
        let octets = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(Address::from_octets(octets).octets(), octets);
    }

    #[test]
    fn an_ipv4_address_is_stored_mapped() {
        let expected = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3];
        assert_eq!(v4([10, 1, 2, 3]).octets(), expected);
        assert!(v4([10, 1, 2, 3]).is_v4());
        assert_eq!(v4([10, 1, 2, 3]).family(), FAMILY_IPV4);
    }

    #[test]
    fn every_way_to_say_loopback_is_loopback() {
        let one = Address::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        for loopback in [
            v4([127, 0, 0, 1]),
            v4([127, 9, 9, 9]),
            v4([0; 4]),
            one,
            Address::NONE,
        ] {
            assert!(loopback.is_loopback(), "{loopback:?}");
        }
        assert!(!v4([128, 0, 0, 1]).is_loopback());
        assert!(!Address::from_octets([0xfd; 16]).is_loopback());
    }
}
