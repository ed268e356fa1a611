//! One endpoint's change among many: a Service's only Pod gets another address, in a file with a
//! hundred objects, until connections to the Service go there.
//!
//! ```text
//!  client ─▶ Service ─▶ Pod `endpoint` at A: a server        before
//!                                      at B: nobody listens  after: connections are refused
//! ```

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};

use super::figure::{Figure, median};
use super::lane::PORT;
use super::mesh::{loads, took_last};
use super::policy;
use super::server::LoadServer;
use crate::agent::Agent;
use crate::fabric::Fabric;
use crate::manifests::large::{self, NODES};
use crate::manifests::{self, Service};
use crate::node::Node;
use crate::pod::Pod;
use crate::wait;

const NAME: &str = "endpoint";
/// The Service's port.
const FRONT: u16 = 80;
const FILE: &str = "endpoint.yaml";
/// Objects in the file besides the Pod.
const OTHERS: usize = 99;
/// Beyond all Pods of a large mesh.
const FIRST_OTHER: usize = 100_000;
/// How often it moves.
const MOVES: usize = 6;

/// A Service, its Pod, and another address for it.
#[derive(Debug)]
pub(super) struct Endpoint {
    // Field order is drop order.
    _load: LoadServer,
    pod: Pod,
    /// A namespace in which nothing listens.
    other: Pod,
    service: IpAddr,
}

/// What one move took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// From writing the file to the first connection that went elsewhere.
    total: f64,
    /// Of that, reading the file and making a mesh of it, by the agent's own log.
    applied: f64,
}

impl Endpoint {
    /// Makes them.
    pub(super) fn new(node: &Node, fabric: &Fabric) -> Result<Self> {
        let pod = node.pod(NAME)?;
        Ok(Self {
            _load: LoadServer::start(pod.namespace(), PORT)?,
            pod,
            other: node.pod("endpoint-other")?,
            service: fabric.vip(80),
        })
    }

    /// The Service's manifest.
    pub(super) fn service(&self) -> Service {
        Service::new(NAME, &[self.service]).port("bench", FRONT, PORT)
    }

    /// The file of the Pod, with its own address or with the other.
    fn file(&self, at: &Pod) -> String {
        let pod = self.pod.manifest().at(at.addresses());
        let others = (FIRST_OTHER..).take(OTHERS);
        let mut documents: Vec<String> = others.map(|it| large::pod(it, true, NODES)).collect();
        // Neither the first nor the last.
        documents.insert(OTHERS / 2, manifests::yaml(&[&pod]));
        documents.join("---\n")
    }

    /// Moves it back and forth, and tells what that took the client's agent.
    pub(super) fn moves(&self, client: &Pod, [near, far]: [&Agent; 2]) -> Result<Vec<Move>> {
        let [here, there] = [self.file(&self.pod), self.file(&self.other)];
        // The server's agent has to know the Pod, and need not follow.
        far.write(FILE, &here)?;
        near.write(FILE, &here)?;
        let target = SocketAddr::from((self.service, FRONT));
        let moves = (0..MOVES).map(|_| {
            let before = loads(near);
            let mut applied = None;
            let total = policy::time_to_effect(
                client,
                target,
                || near.write(FILE, &there),
                || {
                    let took = || took_last(near).filter(|_| loads(near) > before);
                    applied = Some(wait::until("the agent to say how long it took", took)?);
                    near.write(FILE, &here)
                },
            )?;
            let applied = applied.context("no change")?;
            Ok(Move { total, applied })
        });
        let moves: Vec<Move> = moves.collect::<Result<_>>()?;
        [near, far].into_iter().try_for_each(|it| it.remove(FILE))?;
        Ok(moves)
    }
}

/// The medians.
pub(super) fn figures(moves: &[Move], workloads: usize) -> Vec<Figure> {
    let kinds = [
        (
            "mesh_endpoint_ms",
            moves.iter().map(|it| it.total).collect(),
        ),
        (
            "mesh_endpoint_applied_ms",
            moves.iter().map(|it| it.applied).collect::<Vec<f64>>(),
        ),
    ];
    let figures = kinds.into_iter().filter_map(|(kind, values)| {
        Some(Figure::new(
            format!("{kind}_{workloads}"),
            "ms",
            median(&values)?,
        ))
    });
    figures.collect()
}
