//! The successor's side.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use interceptor_common::{LAYOUT, ListenerKey};
use tokio::net::UnixStream;

use super::{
    ANSWER, HAND_OVER, Message, Name, PROTOCOL, TakeOverError, hear, say, socket, unexpected,
};
use crate::capture::Heritage;
use crate::config::Config;
use crate::error::chain;
use crate::net::pass::Channel;

/// Longer than a take-over before ours may take.
const OUR_TURN: Duration = HAND_OVER.saturating_add(ANSWER);

/// A take-over that has begun. The other agent serves, too, until [`Taking::finish`].
#[derive(Debug)]
pub(in crate::app) struct Taking {
    channel: Channel,
}

/// What the running agent has handed over.
#[derive(Debug)]
pub(in crate::app) struct Handed {
    /// For the kernel half.
    pub(in crate::app) heritage: Heritage,
    /// The ports of the node's own.
    pub(in crate::app) ports: Vec<TcpListener>,
}

impl Taking {
    /// Asks the running agent for everything that it has; `None` if none is running.
    pub(in crate::app) async fn begin(
        config: &Config,
    ) -> Result<Option<(Self, Handed)>, TakeOverError> {
        let stream = match UnixStream::connect(socket(&config.run_folder)).await {
            Ok(stream) => stream,
            Err(error) if nobody_listens(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut taking = Self {
            channel: Channel::new(stream),
        };
        let hello = Message::Hello {
            protocol: PROTOCOL,
            layout: LAYOUT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.mesh.node.to_string(),
        };
        say(&taking.channel, &hello, &[]).await?;
        let handed = taking.receive().await?;
        Ok(Some((taking, handed)))
    }

    async fn receive(&mut self) -> Result<Handed, TakeOverError> {
        let expected = match hear(&mut self.channel, OUR_TURN).await? {
            (
                Message::Offer {
                    version,
                    pid,
                    sockets,
                },
                _,
            ) => {
                tracing::info!(version, pid, sockets, "taking over from a running agent");
                sockets
            }
            (other, _) => return Err(unexpected(&other)),
        };
        let (mut lock, mut listeners, mut ports) = (None, Vec::new(), Vec::new());
        let mut received = 0;
        while received < expected {
            let (message, sockets) = hear(&mut self.channel, ANSWER).await?;
            let Message::Sockets { names } = message else {
                return Err(unexpected(&message));
            };
            if names.is_empty() || names.len() != sockets.len() {
                let what = format!("{} sockets with {} names", sockets.len(), names.len());
                return Err(TakeOverError::Unexpected(what));
            }
            received += names.len();
            for (name, socket) in names.into_iter().zip(sockets) {
                match name {
                    Name::Lock => lock = Some(socket),
                    Name::Listener {
                        workload,
                        role,
                        family,
                    } => {
                        let key = ListenerKey {
                            workload,
                            role,
                            family,
                        };
                        listeners.push((key, socket));
                    }
                    Name::Port { .. } => ports.push(TcpListener::from(socket)),
                }
            }
        }
        let lock: Option<OwnedFd> = lock;
        let lock = lock.ok_or_else(|| TakeOverError::Unexpected("no lock".to_owned()))?;
        Ok(Handed {
            heritage: Heritage { lock, listeners },
            ports,
        })
    }

    /// Says that everything is served, and waits until it is ours alone.
    ///
    /// A predecessor that died leaves it to us just as well: it does not serve any more, and the
    /// lock is here. One that stays says so.
    pub(in crate::app) async fn finish(mut self) -> Result<(), TakeOverError> {
        if let Err(error) = say(&self.channel, &Message::Ready, &[]).await {
            tracing::debug!(error = %chain(&error), "the predecessor does not listen");
        }
        match hear(&mut self.channel, ANSWER).await {
            Ok((Message::Yours, _)) => Ok(()),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(TakeOverError::Gone | TakeOverError::Broken(_)) => {
                tracing::warn!("the predecessor died during the take-over");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the predecessor to go on.
    pub(in crate::app) async fn give_up(self, why: String) {
        // If it does not hear this, it hears that the connection ends.
        let _unheard = say(&self.channel, &Message::GaveUp { why }, &[]).await;
    }
}

/// Whether the error of connecting says that no agent is running.
fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}
