//! The answer to a CONNECT: the stream becomes the connection, or the peer is told why not.
//!
//! # Invariants
//!
//! * An [`Answer`] that is dropped is a refusal.

use h2::RecvStream;
use h2::server::SendResponse;
use http::{Response, StatusCode};

use super::super::buffer::Segment;
use super::super::error::StreamError;
use super::super::exclusive::ExclusiveStream;
use super::super::mux::MuxStream;
use super::headers::ConnectHeaders;
use super::refusal::Refusal;
use super::stream::{TunnelStream, stream_error};

/// The one answer that a request gets.
#[derive(Debug)]
pub struct Answer {
    pending: Option<Pending>,
}

/// The stream that waits for it.
#[derive(Debug)]
enum Pending {
    /// Among others, with so much memory on its way to the carrier at most.
    Shared(SendResponse<Segment>, RecvStream, usize),
    /// On its own.
    Exclusive(ExclusiveStream),
    /// Among others of our agents'.
    Mux(MuxStream),
}

impl Answer {
    /// Of a stream among others.
    pub(super) const fn shared(
        respond: SendResponse<Segment>,
        receive: RecvStream,
        most_aloft: usize,
    ) -> Self {
        Self {
            pending: Some(Pending::Shared(respond, receive, most_aloft)),
        }
    }

    /// Of a stream on its own.
    pub(super) const fn exclusive(stream: ExclusiveStream) -> Self {
        Self {
            pending: Some(Pending::Exclusive(stream)),
        }
    }

    /// Of a stream among others of our agents'.
    pub(super) const fn mux(stream: MuxStream) -> Self {
        Self {
            pending: Some(Pending::Mux(stream)),
        }
    }

    /// Answers 200: from now on the stream is the connection. `headers` tell the peer who the
    /// workload is.
    ///
    /// # Errors
    ///
    /// If the stream has ended meanwhile.
    pub fn accept(mut self, headers: &ConnectHeaders) -> Result<TunnelStream, StreamError> {
        match self.pending.take() {
            None => Err(StreamError::Reset {
                code: "CANCEL".to_owned(),
            }),
            Some(Pending::Shared(mut respond, receive, most_aloft)) => {
                let mut response = Response::new(());
                headers.write(response.headers_mut());
                let send = respond.send_response(response, false);
                let send = send.map_err(|error| stream_error(&error))?;
                Ok(TunnelStream::new(send, receive, None, most_aloft))
            }
            Some(Pending::Exclusive(mut stream)) => {
                stream.accept(headers);
                Ok(TunnelStream::exclusive(stream))
            }
            Some(Pending::Mux(stream)) => {
                stream.accept(headers);
                Ok(TunnelStream::mux(stream))
            }
        }
    }

    /// Refuses, and says why.
    pub fn refuse(mut self, refusal: &Refusal) {
        self.refuse_once(refusal);
    }

    fn refuse_once(&mut self, refusal: &Refusal) {
        match self.pending.take() {
            None => {}
            Some(Pending::Shared(respond, _receive, _)) => send_refusal(respond, refusal),
            Some(Pending::Exclusive(stream)) => stream.refuse(refusal),
            Some(Pending::Mux(stream)) => stream.refuse(refusal),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.refuse_once(&Refusal::internal("the agent gave no answer"));
    }
}

fn send_refusal(mut respond: SendResponse<Segment>, refusal: &Refusal) {
    let mut response = Response::new(());
    *response.status_mut() = refusal.status;
    debug_assert_ne!(refusal.status, StatusCode::OK, "a refusal is not a success");
    let (name, value) = refusal.header();
    response.headers_mut().insert(name, value);
    // Fails only if the peer has gone meanwhile.
    let _gone = respond.send_response(response, true);
}
