//! Churn: connections that come and go for half a minute with the kernel's defaults for ports.
//!
//! Who needs a port of its own for every connection and finds it among thousands of `TIME_WAIT`
//! sockets gets slower from window to window; nobody else does.

use anyhow::{Result, bail};

use super::figure::Figure;
use super::load::Window;

/// What is done meanwhile: connect, a byte each way, close; this many at a time.
pub(super) const IN_FLIGHT: usize = 16;

/// The kernel's own range of local ports.
pub(super) const DEFAULT_PORTS: [u32; 2] = [32_768, 60_999];

/// What the rates of all windows are called.
pub(super) const WINDOWS: &str = "churn_windows";

/// The rates of all windows.
pub(super) fn rates(windows: &[Window]) -> Vec<f64> {
    windows.iter().map(Window::rate).collect()
}

/// The first and the last rate, and what part of the first the last is.
pub(super) fn figures(rates: &[f64]) -> Result<Vec<Figure>> {
    let [first, .., last] = rates else {
        bail!("too few windows");
    };
    Ok(vec![
        Figure::new("churn_first", "1/s", *first),
        Figure::new("churn_last", "1/s", *last),
        Figure::new("churn_last_to_first", "last/first", last / first.max(1.0)),
    ])
}
