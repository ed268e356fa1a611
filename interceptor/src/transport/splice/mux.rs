//! The splice between an application's socket and a stream of a shared carrier.
//!
//! The carrier's task writes to the application by itself; what is left here is what the application
//! says, what its socket did not take at once, and the ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::super::hbone::stream::Abort;
use super::super::mux::{Down, HasEnded, MuxStream, Trouble, Up};
use super::{By, Closed, Ends, Load, half_close};
use crate::lanes::after_others;

/// Carries bytes until both directions have ended, and sees to the stream's end.
pub(super) fn carry(
    app: &Arc<TcpStream>,
    stream: MuxStream,
    load: Load,
) -> impl Future<Output = Closed> + Send {
    stream.carried(app, load);
    let mut flow = Flow {
        app,
        stream,
        ends: Ends::default(),
        is_deaf: false,
    };
    async move {
        let closed = flow.run().await;
        match closed.how {
            super::How::Eof => flow.stream.finish(),
            _ => flow.stream.abort(Abort::Reset),
        }
        closed
    }
}

struct Flow<'a> {
    app: &'a TcpStream,
    stream: MuxStream,
    ends: Ends,
    /// The application is not being read: what it says is not wanted now, that it is gone is.
    is_deaf: bool,
}

impl Flow<'_> {
    async fn run(&mut self) -> Closed {
        let app = self.app;
        loop {
            let is_deaf = self.is_deaf;
            tokio::select! {
                biased;
                turn = poll_fn(|cx| self.poll(cx)) => {
                    if let Some(closed) = turn {
                        return closed;
                    }
                }
                ready = app.ready(Interest::ERROR), if is_deaf => {
                    return Closed::broken(By::App, app, ready);
                }
            }
        }
    }

    /// The end, or nothing if something else is to be listened to from now on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Closed>> {
        let has_ended = if self.ends.from_app {
            HasEnded::Yes
        } else {
            HasEnded::No
        };
        let (up, down) = match self.stream.poll_turn(cx, self.app, has_ended) {
            Ok(turn) => turn,
            Err(Trouble::App(error)) => return Poll::Ready(Some(Closed::socket(By::App, error))),
            Err(Trouble::Stream(error)) => return Poll::Ready(Some(Closed::stream(error))),
        };
        if down == Down::Ended && !self.ends.from_peer {
            half_close(self.app);
            self.ends.eof_from(By::Peer);
        }
        match up {
            Up::Ended if !self.ends.from_app => self.ends.eof_from(By::App),
            // Behind the carrier's task, which sends what there is.
            Up::More => after_others(cx),
            _ => {}
        }
        if let Some(closed) = self.ends.both() {
            return Poll::Ready(Some(closed));
        }
        let is_deaf = self.ends.from_app || up == Up::Blocked;
        if std::mem::replace(&mut self.is_deaf, is_deaf) != is_deaf {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}
