//! How much a peer may say on a stream before it is heard.
//!
//! Both ends begin with [`FIRST`], so that an application's first bytes can travel with the request.
//! More is granted as the application takes what has come, in steps of half a window: a stream of
//! small messages says so once in hundreds of them. A stream whose application takes everything at
//! once gets a larger window, out of a reserve that all streams of a carrier share, and out of the
//! agent's [stock](super::super::stock).
//!
//! # Invariants
//!
//! * What a carrier may have to keep is at most [`FIRST`] for each stream, and the reserve; what all
//!   of them may have to keep is that for each stream, and the stock.

use super::super::stock::Loan;

/// What may be said on a stream at first. All streams of a carrier together: 24 MiB.
pub(in crate::transport) const FIRST: u32 = 64 << 10;
/// What may be said at most: 0.8 Gbit/s at ten milliseconds' round trip. Bulk is not for here.
const MOST: u32 = 1 << 20;
/// By how much all streams of one carrier may grow together.
pub(super) const RESERVE: u32 = 8 << 20;

/// What the peer may say on one stream.
#[derive(Debug)]
pub(super) struct Window {
    size: u32,
    /// What it may still say.
    left: u32,
    /// What the application has taken since the peer was told.
    taken: u32,
    /// The application has kept us waiting since the peer was told.
    slow: bool,
    /// Of what is beyond [`FIRST`], the memory: there is room for twice what waits (`slot.rs`).
    loan: Loan,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: FIRST,
            left: FIRST,
            taken: 0,
            slow: false,
            loan: Loan::default(),
        }
    }
}

impl Window {
    /// The peer has said so much. Whether it was allowed to.
    #[must_use]
    pub(super) fn said(&mut self, count: usize) -> bool {
        let left = u32::try_from(count)
            .ok()
            .and_then(|count| self.left.checked_sub(count));
        left.is_some_and(|left| {
            self.left = left;
            true
        })
    }

    /// The application did not take something at once.
    pub(super) const fn kept_waiting(&mut self) {
        self.slow = true;
    }

    /// The application has taken so much. Returns how much more the peer should be granted, if it is
    /// time to tell it.
    pub(super) fn took(&mut self, count: usize, reserve: &mut u32) -> Option<u32> {
        self.taken += u32::try_from(count).unwrap_or_default();
        if self.taken < self.size / 2 {
            return None;
        }
        let wanted = if self.slow || self.size >= MOST {
            0
        } else {
            self.size
        };
        let wanted = wanted.min(*reserve);
        let more = match usize::try_from(wanted) {
            Ok(bytes) if bytes > 0 && self.loan.grow(2 * bytes) => wanted,
            _ => 0,
        };
        *reserve -= more;
        self.size += more;
        self.slow = false;
        let grant = std::mem::take(&mut self.taken) + more;
        self.left += grant;
        Some(grant)
    }

    /// What it had of the reserve.
    pub(super) const fn borrowed(&self) -> u32 {
        self.size - FIRST
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, MOST, RESERVE, Window};

    const HALF: usize = 32 << 10;

    #[test]
    fn a_peer_may_say_what_the_window_holds_and_no_more() {
        let mut window = Window::default();
        assert!(window.said(2 * HALF));
        assert!(!window.said(1));
    }

    #[test]
    fn a_peer_is_told_once_in_half_a_window() {
        let (mut window, mut none) = (Window::default(), 0);
        assert!(window.said(HALF));
        assert_eq!(window.took(HALF - 1, &mut none), None);
        assert_eq!(window.took(1, &mut none), Some(FIRST / 2));
        assert!(window.said(2 * HALF));
        assert!(!window.said(1));
    }

    #[test]
    fn a_window_grows_while_its_application_keeps_up_and_no_further_than_the_bounds() {
        let (mut window, mut reserve) = (Window::default(), RESERVE);
        for _ in 0..100 {
            let half = usize::try_from(window.size / 2).unwrap();
            assert!(window.said(half));
            window.took(half, &mut reserve);
        }
        assert_eq!(window.size, MOST);
        assert_eq!(window.borrowed() + reserve, RESERVE);
        let (mut second, mut little) = (Window::default(), 10);
        assert!(second.said(HALF));
        assert_eq!(second.took(HALF, &mut little), Some(FIRST / 2 + 10));
        assert_eq!(little, 0);
    }

    #[test]
    fn a_window_whose_application_does_not_keep_up_stays_as_it_is() {
        let (mut window, mut reserve) = (Window::default(), RESERVE);
        window.kept_waiting();
        assert!(window.said(HALF));
        assert_eq!(window.took(HALF, &mut reserve), Some(FIRST / 2));
        assert_eq!(reserve, RESERVE);
    }
}
