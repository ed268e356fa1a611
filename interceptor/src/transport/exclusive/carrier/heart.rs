//! Whether the peer lives. It is asked only when it is silent: whatever arrives is a sign of life.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep};

use super::super::super::codec::frame;
use super::super::super::config::Config;
use super::Carrier;

/// Whether the peer lives: asked only when it is silent.
pub(super) struct Heart {
    beat: Pin<Box<Sleep>>,
    pub(super) heard: bool,
    asked: bool,
}

impl Heart {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            beat: Box::pin(sleep(config.ping_interval)),
            heard: false,
            asked: false,
        }
    }
}

impl Carrier {
    /// Resolves when the peer has given no sign of life in time. The question is put into the
    /// outbox.
    pub(in crate::transport) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.heart.beat.as_mut().poll(cx).is_ready() {
            if self.beat() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// The same without waiting.
    pub(super) fn is_silent(&mut self) -> bool {
        while Instant::now() >= self.heart.beat.deadline() {
            if self.beat() {
                return true;
            }
        }
        false
    }

    fn beat(&mut self) -> bool {
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
