//! Bodies of answers: a document, or a stream of lines.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    /// A document; `None` once it was sent.
    Document(Option<Bytes>),
    /// Lines that come as things happen.
    Feed(mpsc::Receiver<Bytes>),
}

impl Body {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Document(Some(Bytes::from(text.into())))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Document(bytes) => bytes.take(),
            Self::Feed(lines) => ready!(lines.poll_recv(cx)),
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Document(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Document(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Feed(_) => SizeHint::default(),
        }
    }
}
