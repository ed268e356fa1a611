//! Whether the peer lives. It is asked only when it is silent: whatever arrives is a sign of life.
//!
//! An end whose application does not read stops reading, too, since that is all the back-pressure
//! there is. It hears neither questions nor answers then. So it does not judge the peer, and gives a
//! sign of life unasked, for as long as that lasts.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep};

use super::super::super::codec::frame;
use super::super::super::config::Config;
use super::Carrier;

/// Whether the peer lives: asked only when it is silent.
pub(super) struct Heart {
    beat: Pin<Box<Sleep>>,
    /// Whom the beat wakes: nobody if it is 0.
    wakes: usize,
    pub(super) heard: bool,
    asked: bool,
}

/// Whether we read what the peer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Hearing {
    /// As usual.
    Listens,
    /// Not now: what it said before has not been written to the application yet.
    Deaf,
}

impl Heart {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            beat: Box::pin(sleep(config.ping_interval)),
            wakes: 0,
            heard: false,
            asked: false,
        }
    }
}

impl Carrier {
    /// Resolves when the peer has given no sign of life in time. The question is put into the
    /// outbox.
    pub(in crate::transport) fn poll_silent(
        &mut self,
        cx: &mut Context<'_>,
        hearing: Hearing,
    ) -> Poll<()> {
        // Asked for with every message. The timer keeps its waker until it wakes, so nothing else
        // can be at its place meanwhile.
        let waker = cx.waker().data().addr();
        if self.heart.wakes == waker && !self.heart.beat.is_elapsed() {
            return Poll::Pending;
        }
        while self.heart.beat.as_mut().poll(cx).is_ready() {
            if self.beat(hearing) {
                return Poll::Ready(());
            }
        }
        self.heart.wakes = waker;
        Poll::Pending
    }

    /// The same without waiting.
    pub(super) fn is_silent(&mut self) -> bool {
        while Instant::now() >= self.heart.beat.deadline() {
            if self.beat(Hearing::Listens) {
                return true;
            }
        }
        false
    }

    fn beat(&mut self, hearing: Hearing) -> bool {
        self.heart.wakes = 0;
        if hearing == Hearing::Deaf {
            // One that waits already will do.
            if self.outbox.is_empty() {
                frame::push_ping(&mut self.outbox);
            }
            self.heart.asked = false;
            let next = Instant::now() + self.config.ping_interval;
            self.heart.beat.as_mut().reset(next);
            return false;
        }
        let heard = std::mem::take(&mut self.heart.heard);
        if !heard && self.heart.asked {
            return true;
        }
        self.heart.asked = !heard;
        let next = if heard {
            self.config.ping_interval
        } else {
            frame::push_ping(&mut self.outbox);
            self.config.ping_timeout
        };
        self.heart.beat.as_mut().reset(Instant::now() + next);
        false
    }
}
