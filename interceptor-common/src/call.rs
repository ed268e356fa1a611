//! What a call to `connect(2)` leaves for the moment in which its SYN is about to leave, and whose
//! place it is left in.
//!
//! A place is claimed by the cookie of a socket. The claim tells since when, too, so that one look at
//! it decides whether it is abandoned, and one exchange takes it away from nobody but its owner.

use crate::{Address, OpenFlow};

/// Places of calls: eight for each processor of a large machine.
pub const CALL_PLACES: u32 = 1 << PLACES_BITS;

const PLACES_BITS: u32 = 10;

/// So many cookies in a row are given to one processor (`COOKIE_LOCAL_BATCH` of the kernel), as bits.
const BATCH_BITS: u32 = 12;

/// So many places they have together, as bits: more than a processor begins calls at a time.
const EACH_BITS: u32 = 3;

/// What is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// What the table is to say.
    pub open: OpenFlow,
    /// The address to which the socket was pointed.
    pub address: Address,
    /// The port, network order.
    pub port_be: u16,
    /// Always zero.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<Call>() == 104);

/// Where it is left. Two lines of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CallPlace {
    /// Whose place it is.
    pub claim: Claim,
    /// What its owner has left; of a free place, nothing.
    pub call: Call,
    /// Always zero.
    pub reserved: [u64; 2],
}

const _: () = assert!(size_of::<CallPlace>() == 128);

/// Whose a place is: a socket's, by its cookie, and since when.
///
/// A cookie in the lower 46 bits, above it 16 bits of the time in eighths of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Claim(pub u64);

impl Claim {
    /// Nobody's.
    pub const FREE: Self = Self(0);

    /// Being written or read: nobody else may take it, however long that lasts.
    pub const BUSY: Self = Self(1 << 63);

    /// A claim that was made so many eighths of a second ago is abandoned: the SYN has left, or never
    /// will.
    const ABANDONED: u64 = 8;

    const COOKIE_BITS: u32 = 46;
    const COOKIE: u64 = (1 << Self::COOKIE_BITS) - 1;
    const EIGHTH_BITS: u32 = 27;
    const TIME: u64 = 0xffff;

    /// The claim of the socket with this cookie at this moment.
    #[inline]
    #[must_use]
    pub const fn new(socket: u64, now_ns: u64) -> Self {
        Self(socket & Self::COOKIE | Self::time(now_ns) << Self::COOKIE_BITS)
    }

    /// Whether it is this socket's, and the place neither written nor read.
    #[inline]
    pub const fn is_of(self, socket: u64) -> bool {
        let is_anybodys = self.0 & Self::BUSY.0 == 0 && socket != 0;
        is_anybodys && self.0 & Self::COOKIE == socket
    }

    /// Whether a call of this socket may take the place now.
    #[inline]
    pub const fn gives_way(self, socket: u64, now_ns: u64) -> bool {
        if self.0 & Self::BUSY.0 != 0 {
            return false;
        }
        let age = Self::time(now_ns).wrapping_sub(self.0 >> Self::COOKIE_BITS) & Self::TIME;
        // Who looks at the clock first may come to the place second: that claim is younger than none.
        let is_abandoned = age > Self::ABANDONED && age < Self::TIME - Self::ABANDONED;
        self.0 == Self::FREE.0 || self.is_of(socket) || is_abandoned
    }

    const fn time(ns: u64) -> u64 {
        ns >> Self::EIGHTH_BITS & Self::TIME
    }
}

impl CallPlace {
    /// The number of the place of the socket with this cookie. `None` for cookies that no claim can name:
    /// those of sockets that were asked for theirs within another's asking, and those after the first
    /// seventy million millions.
    #[inline]
    pub const fn of(socket: u64) -> Option<u32> {
        if socket == 0 || socket > Claim::COOKIE {
            return None;
        }
        let batch = socket >> BATCH_BITS;
        let index = batch << EACH_BITS | socket & ((1 << EACH_BITS) - 1);
        #[expect(
            clippy::as_conversions,
            reason = "const context; less than the number of places"
        )]
        Some((index & ((1 << PLACES_BITS) - 1)) as u32)
    }
}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Call {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CallPlace {}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// Of no particular moment, and of one in which the time of claims begins anew.
    const MOMENTS: [u64; 3] = [0, 123_456_789_012_345, 0xffff << 27];

    #[test]
    fn a_claim_is_its_sockets_and_nobody_elses() {
        for now in MOMENTS {
            for socket in [1, 4097, Claim::COOKIE] {
                let claim = Claim::new(socket, now);
                assert!(claim.is_of(socket));
                assert!(!claim.is_of(socket ^ 1));
                assert!(claim.gives_way(socket, now), "its next call takes it");
            }
        }
        assert!(!Claim::FREE.is_of(0));
        assert!(!Claim::BUSY.is_of(0));
        assert!(!Claim::BUSY.is_of(Claim::BUSY.0));
    }

    #[test]
    fn a_claim_gives_way_to_others_when_it_is_abandoned_and_not_before() {
        for now in MOMENTS {
            let claim = Claim::new(7, now);
            assert!(!claim.gives_way(8, now));
            assert!(!claim.gives_way(8, now + SECOND));
            assert!(claim.gives_way(8, now + 5 * SECOND / 4));
            assert!(claim.gives_way(8, now + 3600 * SECOND));
            // Another processor has looked at the clock before this claim was made.
            assert!(!Claim::new(7, now + SECOND).gives_way(8, now));
        }
    }

    #[test]
    fn what_is_free_is_anybodys_and_what_is_busy_nobodys() {
        for now in MOMENTS {
            assert!(Claim::FREE.gives_way(8, now));
            for later in [0, SECOND, 3600 * SECOND] {
                assert!(!Claim::BUSY.gives_way(8, now + later));
                assert!(!Claim::BUSY.gives_way(Claim::BUSY.0, now + later));
            }
        }
    }

    #[test]
    fn sockets_of_one_processor_share_few_places_and_no_others() {
        let places = |batch: u64| (0..4096).map(move |it| CallPlace::of(batch * 4096 + it));
        let (first, last) = (places(5).min(), places(5).max());
        assert_eq!((first, last), (Some(Some(40)), Some(Some(47))));
        assert!(places(6).all(|it| it > Some(47)));
        assert!(places(127).all(|it| it < Some(CALL_PLACES)));
        assert_eq!(CallPlace::of(128 * 4096), Some(0), "all over again");
    }

    #[test]
    fn a_cookie_that_no_claim_can_name_has_no_place() {
        assert_eq!(CallPlace::of(0), None);
        assert_eq!(CallPlace::of(Claim::COOKIE + 1), None);
        assert_eq!(CallPlace::of(u64::MAX), None);
    }
}
