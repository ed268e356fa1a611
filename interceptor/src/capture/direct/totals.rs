//! What a direct connection carried and how it ended, out of the kernel's own terms.
//!
//! The kernel counts sequence numbers. A SYN takes one, and so does a FIN; which of them were
//! acknowledged or received is what makes payload of them. The programs say so exactly where they
//! know the kernel's structures. Where they do not, the state before the close says it, except for
//! two cases in which a count may be off by one: a FIN that was received in `FIN_WAIT2` (taken for
//! granted), and a reset after the last FIN was queued.

use std::time::Duration;

use interceptor_common::{DirectEvent, FIN_ACKNOWLEDGED, FIN_RECEIVED, UNKNOWN_ERROR};

use crate::net::diag::Carried;

/// What a connection has carried so far, or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes that the initiator sent and the other end's kernel acknowledged.
    pub sent: u64,
    /// Bytes that the initiator's kernel received.
    pub received: u64,
    /// Since the application called `connect(2)`.
    pub duration: Duration,
    /// The smoothed round trip, as the initiator's kernel saw it last.
    pub round_trip: Option<Duration>,
    /// Segments that the initiator sent again, SYNs included.
    pub retransmits: u32,
}

/// How a direct connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// In order: the initiator's last byte was acknowledged, and a FIN came or was not waited for.
    Finished,
    /// The acceptor reset it.
    Reset,
    /// The initiator's application reset it: closed without reading everything, or disconnected.
    Aborted,
    /// It was cut: by [`super::Direct::cut`], or by another holder of that right.
    Cut,
    /// The other end did not answer.
    TimedOut,
    /// Nobody listens at the address, or it is not taken. Never established.
    Refused,
    /// The application gave up before it was established.
    Abandoned,
    /// The network refused it, with this errno.
    Failed(i32),
    /// The kernel does not say.
    Unknown,
}

/// States of a TCP socket, as in `tcp_states.h`.
const SYN_SENT: u16 = 2;
const SYN_RECV: u16 = 3;
const FIN_WAIT2: u16 = 5;
const CLOSE_WAIT: u16 = 8;
const LAST_ACK: u16 = 9;
const CLOSING: u16 = 11;

/// What it has carried, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) totals: Totals,
    pub(super) established: bool,
    pub(super) end: End,
}

/// Reads the event of a connection that is over.
pub(super) fn closed(event: &DirectEvent) -> Closed {
    let state = event.old_state;
    let established = !matches!(state, SYN_SENT | SYN_RECV);
    let (fin_acknowledged, fin_received) = if event.error == UNKNOWN_ERROR {
        (
            matches!(state, FIN_WAIT2 | LAST_ACK | CLOSING),
            matches!(state, FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING),
        )
    } else {
        (
            event.fins & FIN_ACKNOWLEDGED != 0,
            event.fins & FIN_RECEIVED != 0,
        )
    };
    let lasted = event.at_ns.saturating_sub(event.flow.since_ns);
    Closed {
        totals: Totals {
            sent: sent(event.bytes_acked, fin_acknowledged),
            received: event.bytes_received.saturating_sub(fin_received.into()),
            duration: Duration::from_nanos(lasted),
            round_trip: round_trip(event.srtt_us / 8),
            retransmits: event.retransmits,
        },
        established,
        end: end(event, established),
    }
}

/// Reads what an open connection in this `state` has carried.
pub(super) fn so_far(carried: &Carried, state: u8, duration: Duration) -> Totals {
    let state = u16::from(state);
    let fin_received = matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING);
    Totals {
        sent: sent(carried.acknowledged, state == FIN_WAIT2),
        received: carried.received.saturating_sub(fin_received.into()),
        duration,
        round_trip: round_trip(carried.round_trip_us),
        retransmits: carried.retransmits,
    }
}

/// Payload among acknowledged sequence numbers: without the SYN, and without the FIN.
fn sent(acknowledged: u64, fin: bool) -> u64 {
    acknowledged.saturating_sub(1 + u64::from(fin))
}

/// The kernel's zero is no measurement.
fn round_trip(microseconds: u32) -> Option<Duration> {
    (microseconds != 0).then(|| Duration::from_micros(microseconds.into()))
}

/// How it ended, by the socket's error and the state that it was in.
const fn end(event: &DirectEvent, established: bool) -> End {
    let in_order = matches!(event.old_state, FIN_WAIT2 | LAST_ACK | CLOSING);
    if event.error == UNKNOWN_ERROR {
        return if in_order {
            End::Finished
        } else {
            End::Unknown
        };
    }
    match event.error.cast_signed() {
        0 if in_order => End::Finished,
        0 if established => End::Aborted,
        0 => End::Abandoned,
        libc::ECONNREFUSED => End::Refused,
        libc::ETIMEDOUT => End::TimedOut,
        libc::ECONNRESET | libc::EPIPE => End::Reset,
        libc::ECONNABORTED => End::Cut,
        errno => End::Failed(errno),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ESTABLISHED: u16 = 1;
    const FIN_WAIT1: u16 = 4;
    const BOTH: u32 = FIN_ACKNOWLEDGED | FIN_RECEIVED;

    #[rstest]
    #[case::in_order(FIN_WAIT2, 0, BOTH, (12, 8), (10, 7, End::Finished))]
    #[case::not_waited_for(FIN_WAIT2, 0, FIN_ACKNOWLEDGED, (12, 7), (10, 7, End::Finished))]
    #[case::the_acceptor_closed_first(LAST_ACK, 0, BOTH, (12, 8), (10, 7, End::Finished))]
    #[case::both_at_once(CLOSING, 0, BOTH, (12, 8), (10, 7, End::Finished))]
    #[case::reset_by_the_acceptor(ESTABLISHED, libc::ECONNRESET, 0, (11, 7), (10, 7, End::Reset))]
    #[case::reset_after_its_fin(CLOSE_WAIT, libc::EPIPE, FIN_RECEIVED, (11, 8), (10, 7, End::Reset))]
    #[case::unread(ESTABLISHED, 0, 0, (11, 7), (10, 7, End::Aborted))]
    #[case::cut(ESTABLISHED, libc::ECONNABORTED, 0, (11, 7), (10, 7, End::Cut))]
    #[case::silence(FIN_WAIT1, libc::ETIMEDOUT, 0, (11, 7), (10, 7, End::TimedOut))]
    #[case::refused(SYN_SENT, libc::ECONNREFUSED, 0, (0, 0), (0, 0, End::Refused))]
    #[case::no_answer(SYN_SENT, libc::ETIMEDOUT, 0, (0, 0), (0, 0, End::TimedOut))]
    #[case::given_up(SYN_SENT, 0, 0, (0, 0), (0, 0, End::Abandoned))]
    #[case::no_route(SYN_SENT, libc::EHOSTUNREACH, 0, (0, 0), (0, 0, End::Failed(libc::EHOSTUNREACH)))]
    fn payload_and_end_are_told_exactly(
        #[case] old_state: u16,
        #[case] error: i32,
        #[case] fins: u32,
        #[case] (bytes_acked, bytes_received): (u64, u64),
        #[case] expected: (u64, u64, End),
    ) {
        let closed = closed(&DirectEvent {
            old_state,
            error: error.cast_unsigned(),
            fins,
            bytes_acked,
            bytes_received,
            ..DirectEvent::default()
        });
        let found = (closed.totals.sent, closed.totals.received, closed.end);
        assert_eq!(found, expected);
        assert_eq!(closed.established, old_state != SYN_SENT);
    }

    #[rstest]
    #[case::in_order(LAST_ACK, (10, 7, End::Finished))]
    #[case::anything_else(ESTABLISHED, (11, 8, End::Unknown))]
    fn an_unknown_kernel_is_told_by_its_states(
        #[case] old_state: u16,
        #[case] expected: (u64, u64, End),
    ) {
        let closed = closed(&DirectEvent {
            old_state,
            error: UNKNOWN_ERROR,
            bytes_acked: 12,
            bytes_received: 8,
            ..DirectEvent::default()
        });
        let found = (closed.totals.sent, closed.totals.received, closed.end);
        assert_eq!(found, expected);
    }
}
