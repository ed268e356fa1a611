//! Serving a shared carrier: every request runs as a task of its own.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::super::codec::Fields;
use super::super::config::Config;
use super::super::error::{HandshakeError, SessionError};
use super::super::tls::Fast;
use super::driver::{Driver, greet};
use super::hub::Role;
use super::stream::MuxStream;
use crate::lanes::{Lane, Lanes};

/// Waits for a new session's greeting.
pub(in crate::transport) async fn greeted(
    fast: Fast<TcpStream>,
    config: &Arc<Config>,
) -> Result<Driver, HandshakeError> {
    greet(fast, Role::Server, config).await
}

/// Serves requests with `handle` until the client has left, or until the carrier is to be served on
/// another lane. When `over` resolves, or nothing was
/// asked for a long time, it is sent away; open streams go on.
///
/// # Errors
///
/// Why the session ended, if not orderly.
pub(in crate::transport) async fn serve(
    driver: &mut Driver,
    (config, lanes): (&Config, &Lanes),
    over: impl Future<Output = ()>,
    handle: impl FnMut(Box<Fields>, MuxStream),
) -> Result<Option<Arc<Lane>>, SessionError> {
    // Clients idle out first, so that ours ends up closing only what they forget.
    let idle = config.idle_timeout.saturating_mul(2);
    let hub = Arc::clone(driver.hub());
    let mut run = pin!(driver.run(lanes, handle));
    let mut over = pin!(over);
    let mut look = Instant::now() + idle;
    let mut is_draining = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut run => return ended,
            () = &mut over, if !is_draining => {
                hub.retire();
                is_draining = true;
            }
            () = sleep_until(look), if !is_draining => {
                if hub.is_idle() {
                    hub.retire();
                    is_draining = true;
                }
                look = Instant::now() + idle;
            }
        }
    }
}
