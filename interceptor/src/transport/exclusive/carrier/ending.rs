//! The end of a stream, and of the carrier.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::super::super::codec::frame;
use super::super::super::hbone::stream::Abort;
use super::super::socket::write_once;
use super::{Carrier, Hearing, Role, Said, SessionFailure};
use crate::lanes::after_others;

/// Receives in one go while something is waited for.
const ROUNDS: usize = 4;

impl Carrier {
    /// Reads what has arrived meanwhile, without waiting. Whether the carrier is still good for a
    /// new stream.
    pub(in crate::transport::exclusive) fn look(&mut self) -> bool {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        loop {
            match self.next() {
                Ok(Some(_)) => {}
                Err(_) => return false,
                Ok(None) => match self.poll_receive(&mut no_wake) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return false,
                    Poll::Pending => break,
                },
            }
        }
        if !self.is_clean() || self.is_silent() {
            return false;
        }
        // What could not be sent now goes out with the next stream.
        !matches!(self.poll_flush(&mut no_wake), Poll::Ready(Err(_)))
    }

    /// Waits until everything is sent and the peer has heard that the last stream was left.
    pub(in crate::transport::exclusive) fn poll_settled(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionFailure>> {
        loop {
            while self.next()?.is_some() {}
            let sent = self.poll_flush(cx)?;
            if sent.is_ready() && self.leaving.is_none() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(cx))?;
        }
    }

    /// Waits for what the peer says next, and gives it signs of life meanwhile. A peer that says
    /// much that means nothing does not hold up others: they have their turn in between.
    pub(in crate::transport::exclusive) fn poll_said(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Said, SessionFailure>> {
        for _ in 0..ROUNDS {
            if let Some(said) = self.next()? {
                return Poll::Ready(Ok(said));
            }
            if self.poll_silent(cx, Hearing::Listens).is_ready() {
                return Poll::Ready(Err(SessionFailure::Silent));
            }
            let _sent = self.poll_flush(cx)?;
            ready!(self.poll_receive(cx))?;
        }
        after_others(cx);
        Poll::Pending
    }

    /// Ends the stream in both directions. The peer is told if the socket takes it now; until it
    /// has heard, at most until `limit`, the carrier is good for nothing else.
    pub(in crate::transport::exclusive) fn leave(&mut self, why: Abort, limit: Instant) {
        if std::mem::take(&mut self.active) {
            frame::push_reset(&mut self.outbox, self.stream, why.code().into());
            self.leaving = Some(limit);
        }
        self.send_now();
    }

    /// When a stream that was left has to be over.
    pub(in crate::transport::exclusive) const fn leaving(&self) -> Option<Instant> {
        self.leaving
    }

    /// Says goodbye as far as the socket takes it now.
    pub(in crate::transport::exclusive) fn say_goodbye(&mut self, code: u32) {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        let last = self.stream_of_peer();
        frame::push_go_away(&mut self.outbox, last, code);
        let sent = self.poll_flush(&mut no_wake);
        if let Poll::Ready(Ok(())) = sent
            && let Ok(control) = self.session.sealer.close()
        {
            let _gone = write_once(&self.socket, control.bytes());
        }
    }

    /// Tells the peer why it is left, if there is anything to tell.
    pub(in crate::transport::exclusive) fn accuse(&mut self, failure: &SessionFailure) {
        match failure {
            SessionFailure::Codec(error) => self.say_goodbye(error.code()),
            SessionFailure::Record(error) => {
                if let Some(alert) = error.alert()
                    && self.unsent_at.is_empty()
                    && let Ok(control) = self.session.sealer.alert(alert)
                {
                    let _gone = write_once(&self.socket, control.bytes());
                }
            }
            _ => {}
        }
    }

    /// The last stream of the peer's that was served: none, if the peer is a server.
    const fn stream_of_peer(&self) -> u32 {
        match self.role {
            Role::Client => 0,
            Role::Server => self.stream,
        }
    }
}
