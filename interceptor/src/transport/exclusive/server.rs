//! Serving an exclusive carrier: one request after the other, each in the carrier's own task.
//!
//! The carrier goes with the answer to whoever splices the stream, and comes back when that one is
//! over. While it is away nothing is awaited here but the handler.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::super::codec::{Fields, frame};
use super::super::config::Config;
use super::super::error::{HandshakeError, SessionError};
use super::super::tls::Fast;
use super::carrier::{Carrier, Role, Said, SessionFailure};
use super::client::greet_as;
use super::stream::{Berth, ExclusiveStream, Home};
use crate::net::reset_on_close;

/// How long a client that was sent away may take to leave.
const DEPARTURE: Duration = Duration::from_secs(5);

/// A request whose stream has the carrier to itself.
pub(in crate::transport) struct Asked {
    pub(in crate::transport) fields: Box<Fields>,
    pub(in crate::transport) stream: ExclusiveStream,
}

/// Waits for a new session's greeting.
pub(in crate::transport) async fn greeted(
    fast: Fast<TcpStream>,
    config: &Arc<Config>,
) -> Result<Box<Carrier>, HandshakeError> {
    greet_as(fast, Role::Server, config).await
}

/// Serves requests with `handle` until the client has left, or `over` resolves.
///
/// # Errors
///
/// Why the session ended, if not orderly.
pub(in crate::transport) async fn serve<H, F>(
    carrier: Box<Carrier>,
    over: impl Future<Output = ()>,
    handle: H,
) -> Result<(), SessionError>
where
    H: Fn(Asked) -> F,
    F: Future<Output = ()>,
{
    let berth: Berth = Arc::new(Mutex::new(Some(carrier)));
    let mut over = pin!(over);
    // One timer for all of its life: most carriers are not idle for long.
    let mut timer = pin!(sleep_until(Instant::now()));
    loop {
        // Not in the `let` of a condition: the lock would live as long as its block.
        let home = berth.lock().take();
        let Some(mut carrier) = home else {
            // Its stream failed with it, and has said why.
            return Ok(());
        };
        let idle = Instant::now() + carrier.config.idle_timeout.saturating_mul(2);
        let asked = loop {
            let limit = carrier.leaving().unwrap_or(idle);
            if timer.is_elapsed() || limit < timer.deadline() {
                timer.as_mut().reset(limit);
            }
            tokio::select! {
                asked = poll_fn(|cx| carrier.poll_said(cx)) => break asked,
                () = &mut over => return depart(carrier).await,
                () = &mut timer => {}
            }
            let now = Instant::now();
            if carrier.leaving().is_some_and(|limit| limit <= now) {
                // The client does not hear us: only this reaches it.
                let _gone = reset_on_close(&carrier.socket);
                return Ok(());
            }
            if idle <= now {
                return depart(carrier).await;
            }
        };
        match asked {
            Ok(Said::Headers(fields)) => {
                let home = Home::Served(Arc::clone(&berth));
                let stream = ExclusiveStream::new(carrier, home, 0);
                handle(Asked { fields, stream }).await;
            }
            // Of a stream that is over.
            Ok(_) => *berth.lock() = Some(carrier),
            Err(failure) => return ended(&mut carrier, failure),
        }
    }
}

/// A client that closes between two streams has left in order.
fn ended(carrier: &mut Carrier, failure: SessionFailure) -> Result<(), SessionError> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    carrier.accuse(&failure);
    match failure {
        SessionFailure::Closed => Ok(()),
        SessionFailure::Io(error)
            if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
        {
            Ok(())
        }
        SessionFailure::GoneAway { code, .. } if code == frame::NO_ERROR => Ok(()),
        failure => Err(failure.into()),
    }
}

/// Sends the client away: a request that is on its way is not served, and the client knows.
async fn depart(mut carrier: Box<Carrier>) -> Result<(), SessionError> {
    carrier.say_goodbye(frame::NO_ERROR);
    let gone = poll_fn(|cx| {
        loop {
            match carrier.next() {
                Ok(Some(_)) => {}
                Ok(None) => match std::task::ready!(carrier.poll_receive(cx)) {
                    Ok(()) => {}
                    Err(_) => return std::task::Poll::Ready(()),
                },
                Err(_) => return std::task::Poll::Ready(()),
            }
        }
    });
    // Closing at once would reset what it has not read yet.
    let _late = tokio::time::timeout(DEPARTURE, gone).await;
    Ok(())
}
