//! How long a policy takes from its file to its effect.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;

use super::load::open;
use crate::pod::Pod;
use crate::wait;

/// Milliseconds from `change` until a new connection is refused; `restore` undoes it.
pub(super) fn time_to_effect(
    client: &Pod,
    target: SocketAddr,
    change: impl FnOnce() -> Result<()> + Send,
    restore: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    wait::so("connections to be allowed", || allowed_in(client, target))?;
    let taken = client.run(|| {
        let start = Instant::now();
        change()?;
        // Back to back: an interval between attempts would be part of the result.
        while allowed(target) {
            anyhow::ensure!(start.elapsed() < wait::PATIENCE, "the policy has no effect");
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    });
    restore()?;
    wait::so("connections to be allowed again", || {
        allowed_in(client, target)
    })?;
    taken?
}

fn allowed_in(client: &Pod, target: SocketAddr) -> bool {
    client.run(|| allowed(target)).unwrap_or(false)
}

/// Whether a connection carries a byte there and back.
fn allowed(target: SocketAddr) -> bool {
    open(target, b'c').is_ok_and(|mut stream| stream.read_exact(&mut [0]).is_ok())
}
