//! Signs of life: a socket that notes when something arrives on it, and the keepalive that asks
//! the peer only when nothing has.
//!
//! TCP alone takes many minutes to find out that a node has vanished. A carrier with traffic needs
//! no question: whatever arrives proves that the peer is there.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};

/// What a socket has seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    arrived: AtomicBool,
    /// Bytes that have arrived in all. Only who reads writes it.
    bytes: AtomicU64,
    /// The error of the TLS session: HTTP/2 keeps no more than its text.
    tls_failure: OnceLock<rustls::Error>,
}

impl Activity {
    /// Whether anything has arrived since the last look of [`Keepalive`].
    pub(super) fn seen(&self) -> bool {
        self.0.arrived.load(Ordering::Relaxed)
    }

    /// Why the TLS session failed, if it did.
    pub(super) fn tls_failure(&self) -> Option<rustls::Error> {
        self.0.tls_failure.get().cloned()
    }

    /// Bytes that have arrived in all.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn note(&self, count: usize) {
        let bytes = self.bytes() + u64::try_from(count).unwrap_or_default();
        self.0.bytes.store(bytes, Ordering::Relaxed);
        // A load first: a flag that is set already is not worth a write to a shared line.
        if !self.seen() {
            self.0.arrived.store(true, Ordering::Relaxed);
        }
    }

    fn note_failure(&self, error: &io::Error) {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(error) = tls {
            // The first one is the cause.
            let _earlier = self.0.tls_failure.set(error.clone());
        }
    }

    fn take(&self) -> bool {
        self.0.arrived.swap(false, Ordering::Relaxed)
    }
}

/// A socket whose arrivals are noted.
#[derive(Debug)]
pub(super) struct Observed<S> {
    inner: S,
    activity: Activity,
    /// Why a write failed, while the peer is heard out.
    failed: Option<io::Error>,
}

impl<S> Observed<S> {
    pub(super) fn new(inner: S) -> (Self, Activity) {
        let activity = Activity::default();
        let observed = Self {
            inner,
            activity: activity.clone(),
            failed: None,
        };
        (observed, activity)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if let Err(error) = &read {
            self.activity.note_failure(error);
        }
        let count = buffer.filled().len() - before;
        if count > 0 {
            self.activity.note(count);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + Unpin> Observed<S> {
    /// A peer that refuses our certificate sends an alert and closes. If its reset overtakes our
    /// next write, the write fails first, and the alert is still there to be read: it is the
    /// cause. So a failed write waits for the read that a closed connection always has to offer.
    fn hear_out<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let error = match written {
            Poll::Ready(Err(error)) if !self.activity.seen() => error,
            written => return written,
        };
        let mut last_words = [0; 256];
        let mut buffer = ReadBuf::new(&mut last_words);
        match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
            Poll::Pending => {
                self.failed = Some(error);
                return Poll::Pending;
            }
            Poll::Ready(Err(cause)) => self.activity.note_failure(&cause),
            Poll::Ready(Ok(())) => {}
        }
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match self.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.inner).poll_write(cx, bytes),
        };
        self.hear_out(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match self.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.inner).poll_write_vectored(cx, slices),
        };
        self.hear_out(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match self.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.inner).poll_flush(cx),
        };
        self.hear_out(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Asks the peer for a sign of life whenever it has been silent for a while.
#[derive(Debug)]
pub(super) struct Keepalive {
    pub(super) pings: Option<PingPong>,
    pub(super) activity: Activity,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

impl Keepalive {
    /// Resolves when the peer has given no sign of life in time. Never, as long as it does.
    pub(super) async fn silent(mut self) {
        loop {
            sleep(self.interval).await;
            if self.activity.take() {
                continue;
            }
            let Some(pings) = &mut self.pings else {
                continue;
            };
            // Refused while an earlier question is open: then that one is awaited again.
            let _still_open = pings.send_ping(Ping::opaque());
            let answer = timeout(self.timeout, poll_fn(|cx| pings.poll_pong(cx)));
            // An answer that is an error means that the session failed, which its driver reports.
            if answer.await.is_err() && !self.activity.take() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A TLS session whose writes fail and whose peer has left an alert, which the reactor has not
    /// noticed yet.
    struct Refused {
        noticed: bool,
    }

    impl AsyncRead for Refused {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            _buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !std::mem::replace(&mut self.noticed, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let alert = rustls::AlertDescription::UnknownCA;
            Poll::Ready(Err(io::Error::other(rustls::Error::AlertReceived(alert))))
        }
    }

    impl AsyncWrite for Refused {
        fn poll_write(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            _bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_alert_behind_a_write_that_failed_is_the_cause() {
        let (mut socket, activity) = Observed::new(Refused { noticed: false });
        assert!(socket.write_all(b"preface").await.is_err());
        assert_eq!(
            activity.tls_failure(),
            Some(rustls::Error::AlertReceived(
                rustls::AlertDescription::UnknownCA
            ))
        );
    }
}
