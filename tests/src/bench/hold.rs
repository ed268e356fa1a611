//! Connections that are open and idle: what they cost is memory.
//!
//! The application that keeps them is a process of its own: no process may have as many files open
//! as both ends of all of them are.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::thread;

use anyhow::{Context as _, Result};

use super::load::open;
use super::server::listen;
use crate::netns::join;
use crate::pod::Pod;
use crate::wait;

/// Where the application listens that keeps what it accepts.
pub(super) const PORT: u16 = 9200;

/// How many connections are opened at a time.
const OPENERS: usize = 8;

/// How the benchmark's program is asked to be the application that keeps connections.
const KEEP: &str = "--keep";

/// A process that answers one byte of every connection and keeps it.
#[derive(Debug)]
pub(super) struct Keeper(Child);

impl Keeper {
    /// Starts it in a pod.
    pub(super) fn start(pod: &Pod) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(KEEP);
        // A child inherits the namespace of the thread that makes it.
        let child = pod.run(move || command.spawn())?;
        let keeper = Self(child.context("start who keeps connections")?);
        let target = SocketAddr::from(([127, 0, 0, 1], PORT));
        wait::so("it to listen", || {
            pod.run(|| TcpStream::connect(target).is_ok())
                .unwrap_or(false)
        })?;
        Ok(keeper)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Keeps every connection to a port, for ever.
///
/// # Errors
///
/// Fails if nothing can listen there.
pub fn keep_all() -> Result<()> {
    crate::settings::raise_open_files();
    keep(&listen(PORT)?);
    Ok(())
}

pub(super) fn keep(listener: &TcpListener) {
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
