//! Asking for a connection on a shared carrier: the request, what the application has said already,
//! and the answer.
//!
//! # Invariants
//!
//! * What the application said is sent a second time only if the peer cannot have looked at it
//!   (`exclusive/client.rs` says why).

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::task::Poll;

use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use super::super::codec::{Fields, fields, frame, name_of};
use super::super::error::SessionError;
use super::super::exclusive::{AskError, Early};
use super::super::hbone::stream::Abort;
use super::super::hbone::{ConnectHeaders, Lease};
use super::hub::{Hub, Inner};
use super::slot::End;
use super::stream::MuxStream;

/// Asks for a connection to `authority`.
pub(in crate::transport) async fn ask(
    (hub, lease): (&Arc<Hub>, Lease),
    authority: &str,
    headers: &ConnectHeaders,
    early: &mut Early<'_>,
) -> Result<(MuxStream, Box<Fields>), AskError> {
    let mut map = HeaderMap::new();
    headers.write(&mut map);
    let block = fields::connect(authority, &map);
    let mut stream = {
        let mut inner = hub.lock();
        let number = inner.begin().map_err(AskError::Dead)?;
        frame::push_headers(inner.out.frames(), number, &block, frame::End::Open);
        let count = inner.say_early(number, early);
        inner.wake_driver();
        MuxStream::new(hub, number, count, Some(lease))
    };
    let answer = timeout(hub.config.answer_timeout, answer(&stream)).await;
    match answer {
        Err(_elapsed) => {
            stream.abort(Abort::Reset);
            Err(AskError::TimedOut)
        }
        Ok(Err(error)) => Err(match error {
            Unanswered::Leaving(error) => AskError::Dead(error),
            Unanswered::Unseen(error) => AskError::Unseen(error),
            Unanswered::Broken(error) if early.said().is_empty() => AskError::Dead(error),
            Unanswered::Broken(error) | Unanswered::Reset(error) => AskError::Broken(error),
        }),
        Ok(Ok(fields)) if fields.status == Some(StatusCode::OK) => Ok((stream, fields)),
        Ok(Ok(fields)) => {
            stream.finish();
            Err(AskError::Refused(fields))
        }
    }
}

/// Why there was no answer.
enum Unanswered {
    /// The peer has not looked, and will not look at any other.
    Leaving(SessionError),
    /// The peer has not looked at this one.
    Unseen(SessionError),
    /// The session is over.
    Broken(SessionError),
    /// It ended this stream alone.
    Reset(SessionError),
}

async fn answer(stream: &MuxStream) -> Result<Box<Fields>, Unanswered> {
    poll_fn(|cx| {
        let mut inner = stream.hub().lock();
        let ended = inner.ended.clone();
        let Some(slot) = inner.streams.get_mut(&stream.stream) else {
            return Poll::Ready(Err(Unanswered::Broken(SessionError::goodbye())));
        };
        slot.wakes(cx.waker());
        if let Some(fields) = slot.answer.take() {
            return Poll::Ready(Ok(fields));
        }
        match &slot.end {
            Some(End::Unserved) => Poll::Ready(Err(Unanswered::Leaving(SessionError::goodbye()))),
            Some(End::Reset(code)) => {
                let detail = format!(
                    "the stream was reset before its answer ({})",
                    name_of(*code)
                );
                let error = SessionError::Protocol { detail };
                Poll::Ready(Err(if *code == frame::REFUSED_STREAM {
                    Unanswered::Unseen(error)
                } else {
                    Unanswered::Reset(error)
                }))
            }
            Some(End::App(_)) | None => match ended {
                Some(error) => Poll::Ready(Err(Unanswered::Broken(error))),
                None => Poll::Pending,
            },
        }
    })
    .await
}

impl Inner {
    /// What the application has said already goes with the request. Returns how much that is.
    fn say_early(&mut self, stream: u32, early: &mut Early<'_>) -> usize {
        let said = early.said().len();
        let count = if said > 0 {
            // On a carrier that turned out dead: at most a record's worth.
            let frames = self.out.frames();
            for piece in early.said().chunks(frame::MAX_PAYLOAD) {
                frames.extend(frame::data(stream, piece.len()));
                frames.extend_from_slice(piece);
            }
            said
        } else if let Ok(Some(room)) = self.out.payload() {
            let count = early.read(&mut [IoSliceMut::new(room)]);
            if count > 0 {
                self.out.commit(stream, count);
            }
            count
        } else {
            // No room: it is read when the stream is carried.
            0
        };
        if let Some(slot) = self.streams.get_mut(&stream) {
            slot.allowed = slot
                .allowed
                .saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        }
        count
    }
}
