//! Churn: connections that come and go for half a minute with the kernel's default range of ports.
//!
//! Who needs a port of its own for every connection and finds it among thousands of `TIME_WAIT`
//! sockets gets slower from window to window; nobody else does.

use anyhow::{Context as _, Result};

use super::figure::Figure;
use super::load::Window;

/// What is done meanwhile: connect, a byte each way, close; this many at a time.
pub(super) const IN_FLIGHT: usize = 16;

/// The kernel's own range of local ports.
pub(super) const DEFAULT_PORTS: [u32; 2] = [32_768, 60_999];

/// The rates of the first and of the last window, and what part of the first the last is.
pub(super) fn figures(windows: &[Window]) -> Result<Vec<Figure>> {
    let rate = |window: Option<&Window>| window.map(Window::rate).context("no windows");
    let (first, last) = (rate(windows.first())?, rate(windows.last())?);
    Ok(vec![
        Figure::new("churn_first", "1/s", first),
        Figure::new("churn_last", "1/s", last),
        Figure::new("churn_last_to_first", "last/first", last / first.max(1.0)),
    ])
}
