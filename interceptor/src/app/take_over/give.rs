//! The predecessor's side.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use interceptor_common::LAYOUT;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::{
    ANSWER, HAND_OVER, Message, Name, PROTOCOL, TakeOverError, hear, say, socket, unexpected,
};
use crate::admin::Socket;
use crate::capture::Estate;
use crate::drain::Tasks;
use crate::error::chain;
use crate::net::pass::{Channel, MOST_DESCRIPTORS};

/// A pause after `accept` failed.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Listens for successors and brings them, one at a time, to whoever may hand over.
#[derive(Debug)]
pub(in crate::app) struct Giver {
    node: Arc<str>,
    petitions: mpsc::Sender<Petition>,
}

/// A successor that may have what it asks for.
#[derive(Debug)]
pub(in crate::app) struct Petition {
    channel: Channel,
    /// The successor's version.
    pub(in crate::app) version: String,
    /// Closed with this value, which lets the next one in.
    _turn: oneshot::Sender<()>,
}

impl Giver {
    /// Brings petitions to the receiver.
    pub(in crate::app) fn new(node: Arc<str>) -> (Self, mpsc::Receiver<Petition>) {
        let (petitions, receiver) = mpsc::channel(1);
        (Self { node, petitions }, receiver)
    }

    /// Listens in the run folder, in the place of whoever did before. If the socket cannot be made,
    /// that is tried again: an agent that cannot be replaced is better than none.
    pub(in crate::app) fn serve(self, run_folder: &Path, tasks: &Tasks) {
        let socket = Socket::replace_at_last(socket(run_folder));
        let stopping = tasks.clone();
        tasks.spawn("take-over", async move {
            tokio::select! {
                () = stopping.stopping() => {}
                () = async { self.run(&socket.await).await } => {}
            }
        });
    }

    async fn run(&self, socket: &Socket) {
        loop {
            match socket.accept().await {
                Ok(stream) => {
                    if let Err(error) = self.answer(stream).await {
                        tracing::warn!(error = %chain(&error), "a successor was not heard");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Hears one successor out; returns when it is done with.
    async fn answer(&self, stream: UnixStream) -> Result<(), TakeOverError> {
        let mut channel = Channel::new(stream);
        let (hello, _) = hear(&mut channel, ANSWER).await?;
        let version = match self.judge(hello)? {
            Ok(version) => version,
            Err(why) => {
                tracing::warn!(why, "refused a successor");
                return say(&channel, &Message::Refused { why }, &[]).await;
            }
        };
        let (turn, done) = oneshot::channel();
        let petition = Petition {
            channel,
            version,
            _turn: turn,
        };
        if self.petitions.send(petition).await.is_ok() {
            let _closed = done.await;
        }
        Ok(())
    }

    /// The successor's version, or why it cannot have what it wants.
    fn judge(&self, hello: Message) -> Result<Result<String, String>, TakeOverError> {
        let Message::Hello {
            protocol,
            layout,
            version,
            node,
        } = hello
        else {
            return Err(unexpected(&hello));
        };
        let own = env!("CARGO_PKG_VERSION");
        Ok(if protocol != PROTOCOL {
            Err(format!(
                "version {own} hands over by protocol {PROTOCOL}, version {version} by {protocol}"
            ))
        } else if layout != LAYOUT {
            Err(format!(
                "the kernel maps of version {own} have layout v{LAYOUT}, those of {version} \
                 v{layout}: stop this agent, run `interceptor uninstall`, start the new one"
            ))
        } else if node != *self.node {
            Err(format!("it is the agent of node {}, not {node}", self.node))
        } else {
            Ok(version)
        })
    }
}

impl Petition {
    /// Hands everything over and waits until the successor serves it. Then `let_go` of what only
    /// one can do. When this returns `Ok`, it is the successor's.
    ///
    /// # Errors
    ///
    /// If the successor does not come so far. It is told, if it still listens.
    pub(in crate::app) async fn conduct(
        &mut self,
        estate: &Estate,
        ports: &[(SocketAddr, OwnedFd)],
        let_go: impl FnOnce(),
    ) -> Result<(), TakeOverError> {
        let outcome = self.offer(estate, ports, let_go).await;
        if let Err(error) = &outcome {
            let why = chain(error);
            let withdrawn = Message::Withdrawn { why };
            // Most likely it is gone. If it is not and does not read, this agent goes on all the same.
            let told = say(&self.channel, &withdrawn, &[]);
            let _unheard = tokio::time::timeout(ANSWER, told).await;
        }
        outcome
    }

    /// Waits until the successor has let go of the connection. Only then is it certain that it does
    /// nothing more in our place: one that was stopped for a while does not know yet that it is none.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and call again.
    pub(in crate::app) async fn gone(&mut self) {
        while let Ok(Some(_too_late)) = self.channel.receive().await {}
    }

    async fn offer(
        &mut self,
        estate: &Estate,
        ports: &[(SocketAddr, OwnedFd)],
        let_go: impl FnOnce(),
    ) -> Result<(), TakeOverError> {
        let sockets = everything(estate, ports);
        let offer = Message::Offer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            sockets: sockets.len(),
        };
        let send = async {
            say(&self.channel, &offer, &[]).await?;
            for some in sockets.chunks(MOST_DESCRIPTORS) {
                let names = some.iter().map(|(name, _)| *name).collect();
                let descriptors: Vec<_> = some.iter().map(|(_, socket)| *socket).collect();
                say(&self.channel, &Message::Sockets { names }, &descriptors).await?;
            }
            Ok::<_, TakeOverError>(())
        };
        let sent = tokio::time::timeout(HAND_OVER, send).await;
        sent.map_err(|_elapsed| TakeOverError::Silent(HAND_OVER))??;
        match hear(&mut self.channel, HAND_OVER).await? {
            (Message::Ready, _) => {
                let_go();
                say(&self.channel, &Message::Yours, &[]).await
            }
            (other, _) => Err(unexpected(&other)),
        }
    }
}

/// Every socket with its name.
fn everything<'a>(
    estate: &'a Estate,
    ports: &'a [(SocketAddr, OwnedFd)],
) -> Vec<(Name, BorrowedFd<'a>)> {
    let lock = (Name::Lock, estate.lock.as_fd());
    let listeners = (estate.listeners.iter()).map(|(key, it)| (Name::from(*key), it.as_fd()));
    let ports = ports.iter().map(|(address, socket)| {
        let address = *address;
        (Name::Port { address }, socket.as_fd())
    });
    std::iter::once(lock)
        .chain(listeners)
        .chain(ports)
        .collect()
}
