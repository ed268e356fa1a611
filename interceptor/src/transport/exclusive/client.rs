//! Asking for a connection on an exclusive carrier: the request, what the application has said
//! already, and the answer.
//!
//! The application's first bytes travel with the request if they are there: that saves the time
//! until the answer comes. They are bounded, never waited for, and kept until the answer, so that
//! they can be sent again on another carrier if this one turns out dead.
//!
//! # Invariants
//!
//! * What the application said is sent a second time only if the peer cannot have looked at it: it
//!   announced that it would not, or nothing was said. A request alone may be sent again.

use std::future::poll_fn;
use std::io::{ErrorKind, IoSliceMut, Read as _};
use std::task::Poll;

use http::{HeaderMap, StatusCode};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::buffer::Sizer;
use super::super::codec::{CodecError, Fields, fields, frame};
use super::super::config::Config;
use super::super::error::{HandshakeError, SessionError};
use super::super::hbone::ConnectHeaders;
use super::super::hbone::stream::Abort;
use super::super::record::RecordError;
use super::super::tls::Fast;
use super::carrier::{Carrier, LoadError, Role, Said, SessionFailure};
use super::stream::{ExclusiveStream, Home};
use super::warm::Ready;

/// What an application said before its connection was open.
#[derive(Debug)]
pub(in crate::transport) struct Early<'a> {
    /// Where it may say something; nothing if there is no application yet.
    app: Option<&'a TcpStream>,
    said: Vec<u8>,
}

/// Why a request failed.
#[derive(Debug)]
pub(in crate::transport) enum AskError {
    /// There was no answer, and another carrier may do.
    Dead(SessionError),
    /// The peer has not looked at this request, and says nothing against others on the same carrier.
    Unseen(SessionError),
    /// There was no answer, and the peer may have looked at the request.
    Broken(SessionError),
    /// There was none in time.
    TimedOut,
    /// It was no.
    Refused(Box<Fields>),
}

impl<'a> Early<'a> {
    pub(in crate::transport) const fn of(app: Option<&'a TcpStream>) -> Self {
        Self {
            app,
            said: Vec::new(),
        }
    }

    /// What was said and could not be sent on a carrier of its own.
    pub(in crate::transport) fn said(&self) -> &[u8] {
        &self.said
    }

    /// Puts what was said into `slots`. Asks the kernel directly: the runtime does not know yet
    /// whether there is something to be read.
    pub(in crate::transport) fn read(&mut self, slots: &mut [IoSliceMut<'_>]) -> usize {
        let Some(first) = slots.first_mut() else {
            return 0;
        };
        if self.said.is_empty()
            && let Some(app) = self.app
        {
            // An end of file or an error is found again by who reads next.
            let read = (&*SockRef::from(app)).read(first);
            self.said
                .extend(first.get(..read.unwrap_or_default()).unwrap_or_default());
            return self.said.len();
        }
        let count = self.said.len().min(first.len());
        if let Some(room) = first.get_mut(..count) {
            room.copy_from_slice(self.said.get(..count).unwrap_or_default());
        }
        count
    }
}

/// Greets the peer on a new session.
pub(in crate::transport) async fn greet(
    fast: Fast<TcpStream>,
    config: &std::sync::Arc<Config>,
) -> Result<Box<Carrier>, HandshakeError> {
    greet_as(fast, Role::Client, config).await
}

/// The same for either end.
pub(super) async fn greet_as(
    fast: Fast<TcpStream>,
    role: Role,
    config: &std::sync::Arc<Config>,
) -> Result<Box<Carrier>, HandshakeError> {
    let mut carrier = Box::new(Carrier::new(fast, role, config));
    match carrier.greet().await {
        Ok(()) => Ok(carrier),
        Err(SessionFailure::Closed) => Err(HandshakeError::Closed),
        Err(SessionFailure::Record(RecordError::Alert(alert))) => Err(HandshakeError::Alert {
            alert: format!("{alert:?}"),
        }),
        Err(failure) => {
            carrier.accuse(&failure);
            Err(HandshakeError::NotHttp2(failure.into()))
        }
    }
}

/// Asks for a connection to `authority`.
pub(in crate::transport) async fn ask(
    ready: Ready,
    authority: &str,
    headers: &ConnectHeaders,
    early: &mut Early<'_>,
) -> Result<(ExclusiveStream, Box<Fields>), AskError> {
    let Ready {
        mut carrier, place, ..
    } = ready;
    if carrier.is_going() {
        // It said so with its greeting.
        return Err(AskError::Dead(SessionError::goodbye()));
    }
    request(&mut carrier, authority, headers);
    let slots = carrier.load(&Sizer::default(), |slots, _most| Ok(early.read(slots)));
    let count = slots.map_err(|error| AskError::Dead(load_error(error)))?;
    let limit = carrier.config.answer_timeout;
    // From here on the carrier's fate is the stream's.
    let mut stream = ExclusiveStream::new(carrier, Home::Warm(Some(place)), count);
    let answer = timeout(limit, answer(&mut stream)).await;
    match answer {
        Err(_elapsed) => {
            stream.abort(Abort::Reset);
            Err(AskError::TimedOut)
        }
        Ok(Err(failure)) => {
            stream.fail(&failure);
            let unserved = matches!(failure, SessionFailure::GoneAway { unserved: true, .. });
            let may_ask_again = unserved || early.said.is_empty();
            Err(if may_ask_again {
                AskError::Dead(failure.into())
            } else {
                AskError::Broken(failure.into())
            })
        }
        Ok(Ok(Answer::Reset(code))) => {
            stream.finish();
            let detail = format!(
                "the stream was reset before its answer ({})",
                super::super::codec::name_of(code)
            );
            Err(if code == frame::REFUSED_STREAM {
                AskError::Unseen(SessionError::Protocol { detail })
            } else {
                AskError::Broken(SessionError::Protocol { detail })
            })
        }
        Ok(Ok(Answer::List(fields))) if fields.status == Some(StatusCode::OK) => {
            Ok((stream, fields))
        }
        Ok(Ok(Answer::List(fields))) => {
            // The end goes out with the next request.
            if let Some(carrier) = stream.carrier() {
                carrier.finish();
            }
            stream.finish();
            Err(AskError::Refused(fields))
        }
    }
}

fn request(carrier: &mut Carrier, authority: &str, headers: &ConnectHeaders) {
    let mut map = HeaderMap::new();
    headers.write(&mut map);
    let block = fields::connect(authority, &map);
    let stream = carrier.begin();
    frame::push_headers(carrier.outbox(), stream, &block, frame::End::Open);
}

enum Answer {
    List(Box<Fields>),
    Reset(u32),
}

async fn answer(stream: &mut ExclusiveStream) -> Result<Answer, SessionFailure> {
    poll_fn(|cx| {
        let Some(carrier) = stream.carrier() else {
            return Poll::Ready(Err(SessionFailure::Closed));
        };
        carrier.poll_said(cx).map_ok(|said| match said {
            Said::Headers(fields) => Ok(Answer::List(fields)),
            Said::Reset(code) => Ok(Answer::Reset(code)),
            // Nothing comes before the answer.
            Said::Hello | Said::Data(_) | Said::End => Err(CodecError::Unexpected.into()),
        })
    })
    .await?
}

fn load_error(error: LoadError) -> SessionError {
    match error {
        LoadError::Read(error) if error.kind() == ErrorKind::WouldBlock => SessionError::Silent,
        error => SessionFailure::from(error).into(),
    }
}
