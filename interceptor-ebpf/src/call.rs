//! A direct connection between the two moments in which something is known of it: `connect(2)`, when
//! its 4-tuple is not complete, and the SYN, when nobody knows any more what was asked for.
//!
//! Nearly always both are in one system call. Then an entry of a table carries what is known from the
//! one to the other, by the cookie of the socket, wherever the task is by then. That spares the socket
//! a storage of its own, which is two allocations, and two frees after a grace period.
//!
//! # Places
//!
//! The table is an array, and a socket's cookie says which place of it is its own. Cookies are handed
//! out to processors 4,096 at a time, so that a processor uses the same few places again and again, and
//! others use others. A place belongs to whom its claim names:
//!
//! | [`Claim`] | the place is | who may exchange it for another |
//! |---|---|---|
//! | free | free | any call that leaves something |
//! | a cookie, and since when | taken | the SYN or the next call of that socket; any call, when it is abandoned |
//! | busy | being written or read | only who made it so: a program, which always comes to its end |
//!
//! So nothing is read while it is written, whoever is interrupted where and for how long. A SYN whose
//! place is somebody else's by now finds nothing left, as if the agent had removed it.
//!
//! Who finds a place taken does not wait: the entry goes into a map, as it does where the kernel
//! cannot exchange. That is slower, and has room for any cookie.
//!
//! # What is never collected
//!
//! A call that fails before its SYN (no route, no port) leaves its entry behind. It says what it said
//! if the same socket connects to the same endpoint again, until it is in somebody's way, or, in the
//! map, the agent removes it. Who finds no room at all remembers in the socket.

use interceptor_common::{Call, CallPlace, Claim};

use crate::exchange::compare_exchange;
use crate::field::get;
use crate::maps::{CALLS, PLACES};
use crate::settings::can_exchange;

/// Leaves what is known of a connection to its SYN. False if there is no room.
#[inline]
#[must_use]
pub(crate) fn leave(call: &Call) -> bool {
    is_left_in_place(call) || CALLS.insert(call.open.socket, call, 0).is_ok()
}

/// Does something with what was left for the socket with this cookie, if anything was. Nobody else
/// writes that meanwhile: the socket is locked.
#[inline]
pub(crate) fn collect(socket: u64, with: impl FnOnce(&mut Call)) {
    let place = taken_by(socket);
    let left = match place {
        // SAFETY: the place lives as long as the map.
        Some(place) => Some(unsafe { &raw mut (*place).call }),
        None => CALLS.get_ptr_mut(socket),
    };
    let Some(call) = left else {
        return;
    };
    // SAFETY: it lives until the program ends, and nobody else writes it: a place is ours until its claim
    // says something else, and an entry of the map is written by this socket's calls only.
    with(unsafe { &mut *call });
    match place {
        Some(place) => {
            let _ours = exchange(place, Claim::BUSY, Claim::FREE);
        }
        None => {
            // What is gone already was to go.
            let _gone = CALLS.remove(socket);
        }
    }
}

/// Leaves it in the socket's place, unless that is somebody else's.
#[inline]
fn is_left_in_place(call: &Call) -> bool {
    let (socket, now) = (call.open.socket, call.open.flow.since_ns);
    let Some(place) = place_of(socket) else {
        return false;
    };
    let before = claim(place);
    if !before.gives_way(socket, now) || !exchange(place, before, Claim::BUSY) {
        return false;
    }
    // SAFETY: the place lives as long as the map, and is ours until its claim says something else.
    unsafe { (*place).call = *call };
    exchange(place, Claim::BUSY, Claim::new(socket, now))
}

/// The place in which something was left for this socket: busy, and to be given back.
#[inline]
fn taken_by(socket: u64) -> Option<*mut CallPlace> {
    let place = place_of(socket)?;
    let claim = claim(place);
    (claim.is_of(socket) && exchange(place, claim, Claim::BUSY)).then_some(place)
}

/// The place of the socket with this cookie.
#[inline]
fn place_of(socket: u64) -> Option<*mut CallPlace> {
    if !can_exchange() {
        return None;
    }
    PLACES.get_ptr_mut(CallPlace::of(socket)?)
}

/// Whose a place is at this moment.
#[inline]
fn claim(place: *mut CallPlace) -> Claim {
    // SAFETY: the place lives as long as the map, and the number is read as one.
    get(unsafe { &(*place).claim })
}

/// Changes whose it is, if it is `from`'s still.
#[inline]
fn exchange(place: *mut CallPlace, from: Claim, to: Claim) -> bool {
    // SAFETY: the place lives as long as the map.
    let claim = unsafe { &raw mut (*place).claim };
    // SAFETY: a claim is a number in the value of a map, and its first.
    unsafe { compare_exchange(claim.cast(), from.0, to.0) == from.0 }
}
