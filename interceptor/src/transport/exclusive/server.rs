//! Serving an exclusive carrier: one request after the other, each in the carrier's own task.
//!
//! The carrier goes with the answer to whoever splices the stream, and comes back when that one is
//! over. While it is away nothing is awaited here but the handler.
//!
//! A client uses the carriers that it used last, and those may all be on one lane. So a carrier
//! moves when a stream begins on it and another lane has less to do.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::codec::{Fields, frame};
use super::super::config::Config;
use super::super::error::{HandshakeError, SessionError};
use super::super::tls::Fast;
use super::carrier::{Carrier, Role, Said, SessionFailure};
use super::client::greet_as;
use super::stream::{Berth, ExclusiveStream, Home};
use crate::lanes::{Lane, Lanes, Load, Seat};
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

/// A carrier to be served.
pub(in crate::transport) struct Serving {
    pub(in crate::transport) carrier: Box<Carrier>,
    /// What it has been asked already, and where that stream is counted.
    pub(in crate::transport) asked: Option<(Box<Fields>, Option<Seat>)>,
}

/// How serving has ended in order.
pub(in crate::transport) enum Left {
    /// The client has left, or was sent away.
    Over,
    /// The next stream is better off on this lane, to which the carrier belongs by now.
    For(Arc<Lane>, Serving),
}

/// What a carrier is waiting for.
enum Next {
    /// A request.
    Asked(Box<Fields>),
    /// Nothing: there shall be no more.
    Enough,
    /// Nothing: the client does not hear us.
    Deaf,
    /// Nothing: the session has failed.
    Failed(SessionFailure),
}

/// Serves requests with `handle` until the client has left, or `over` resolves, or another of
/// `lanes` does better with what comes next.
///
/// # Errors
///
/// Why the session ended, if not orderly.
pub(in crate::transport) async fn serve<H, F>(
    serving: Serving,
    lanes: &Lanes,
    over: impl Future<Output = ()>,
    handle: H,
) -> Result<Left, SessionError>
where
    H: Fn(Asked) -> F,
    F: Future<Output = ()>,
{
    let Serving {
        mut carrier,
        mut asked,
    } = serving;
    let berth: Berth = Arc::default();
    let mut over = pin!(over);
    // One timer for all of its life: most carriers are not idle for long.
    let mut timer = pin!(sleep_until(Instant::now()));
    loop {
        if let Some((fields, _seat)) = asked.take() {
            let home = Home::Served(Arc::clone(&berth));
            let stream = ExclusiveStream::new(carrier, home, 0);
            handle(Asked { fields, stream }).await;
            // A client may have asked hundreds of times before, and most handlers of requests that
            // are refused wait for nothing: others on this lane have their turn in between.
            consume_budget().await;
            // Not in the `let` of a condition: the lock would live as long as its block.
            let home = berth.lock().take();
            let Some(home) = home else {
                // Its stream failed with it, and has said why.
                return Ok(Left::Over);
            };
            carrier = home;
        }
        match next(&mut carrier, over.as_mut(), timer.as_mut()).await {
            Next::Asked(fields) => {
                if let Some(seat) = lanes.elsewhere()
                    && carrier.move_to(seat.lane()).is_ok()
                {
                    let (lane, asked) = (Arc::clone(seat.lane()), Some((fields, Some(seat))));
                    return Ok(Left::For(lane, Serving { carrier, asked }));
                }
                asked = Some((fields, lanes.here(Load::Stream)));
            }
            Next::Enough => return depart(carrier).await,
            Next::Deaf => {
                // Only this reaches it.
                let _gone = reset_on_close(&carrier.socket);
                return Ok(Left::Over);
            }
            Next::Failed(failure) => return ended(&mut carrier, failure),
        }
    }
}

/// Waits for the next request.
async fn next(
    carrier: &mut Carrier,
    mut over: Pin<&mut impl Future<Output = ()>>,
    mut timer: Pin<&mut Sleep>,
) -> Next {
    let idle = Instant::now() + carrier.config.idle_timeout.saturating_mul(2);
    loop {
        let limit = carrier.leaving().unwrap_or(idle);
        if timer.is_elapsed() || limit < timer.deadline() {
            timer.as_mut().reset(limit);
        }
        tokio::select! {
            said = poll_fn(|cx| carrier.poll_said(cx)) => match said {
                Ok(Said::Headers(fields)) => return Next::Asked(fields),
                // Of a stream that is over.
                Ok(_) => continue,
                Err(failure) => return Next::Failed(failure),
            },
            () = &mut over => return Next::Enough,
            () = &mut timer => {}
        }
        let now = Instant::now();
        if carrier.leaving().is_some_and(|limit| limit <= now) {
            return Next::Deaf;
        }
        if idle <= now {
            return Next::Enough;
        }
    }
}

/// A client that closes between two streams has left in order.
fn ended(carrier: &mut Carrier, failure: SessionFailure) -> Result<Left, SessionError> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    carrier.accuse(&failure);
    match failure {
        SessionFailure::Closed => Ok(Left::Over),
        SessionFailure::Io(error)
            if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
        {
            Ok(Left::Over)
        }
        SessionFailure::GoneAway { code, .. } if code == frame::NO_ERROR => Ok(Left::Over),
        failure => Err(failure.into()),
    }
}

/// Sends the client away: a request that is on its way is not served, and the client knows.
async fn depart(mut carrier: Box<Carrier>) -> Result<Left, SessionError> {
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
    Ok(Left::Over)
}
