//! Connections that are open and idle: what they cost is memory.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use socket2::SockRef;

use super::load::{listen, open};
use crate::netns::join;
use crate::pod::Pod;

/// Where the application listens that keeps what it accepts.
pub(super) const PORT: u16 = 9200;

/// How many connections are opened at a time.
const OPENERS: usize = 8;

/// An application that answers one byte of every connection and keeps it.
#[derive(Debug)]
pub(super) struct Keeper {
    listener: Arc<TcpListener>,
}

impl Keeper {
    /// Starts it in a pod.
    pub(super) fn start(pod: &Pod) -> Result<Self> {
        let listener = Arc::new(pod.run(|| listen(PORT))?.context("listen")?);
        let own = Arc::clone(&listener);
        thread::Builder::new().spawn(move || keep(&own))?;
        Ok(Self { listener })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(SockRef::from(&*self.listener).shutdown(Shutdown::Both));
    }
}

fn keep(listener: &TcpListener) {
    let mut kept = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        let mut byte = [0];
        // A probe whether anyone listens sends none and ends.
        if stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {
            kept.push(stream);
        }
    }
}

/// Opens connections, each proved by a byte that went both ways.
pub(super) fn open_all(client: &Pod, target: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    client.run(|| {
        thread::scope(|scope| {
            let openers: Vec<_> = (0..OPENERS)
                .map(|index| {
                    let share = count / OPENERS + usize::from(index < count % OPENERS);
                    scope.spawn(move || (0..share).map(|_| open_one(target)).collect())
                })
                .collect();
            let mut all = Vec::new();
            for opener in openers {
                let opened: Result<Vec<TcpStream>> = join(opener.join());
                all.append(&mut opened.context("open idle connections")?);
            }
            Ok(all)
        })
    })?
}

fn open_one(target: SocketAddr) -> Result<TcpStream> {
    let mut stream = open(target, b'h')?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}
