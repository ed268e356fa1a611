//! A connection to a local workload: judged by who the caller proved to be, then handed to the
//! application with the caller's true address.
//!
//! HBONE and plaintext differ in two things only: whether there is an identity, and how a refusal
//! is said. A refused HBONE stream is answered with a status and a reason, so that the caller's
//! agent can log why; a refused plaintext connection is reset. Either way the application never
//! learns that there was one.

mod hbone;
mod plaintext;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use interceptor_policy::{Attempt, SpiffeId, Verdict};
use tokio::net::TcpStream;

pub(super) use hbone::serve as hbone;
pub(super) use plaintext::serve as plaintext;

use super::registry::Basis;
use super::story::{Stop, Story, because, reason_of};
use super::{Local, Plane};
use crate::decide;
use crate::net::{Purpose, is_out_of_resources};
use crate::reason::Label;
use crate::telemetry::record::{ConnectionId, End, Reason, Reporter, ResponseFlags, Security};
use crate::telemetry::shadow::Shadow;
use crate::transport::hbone::Refusal;
use crate::workload::{Mesh, ServiceName, Workload, WorkloadId};

/// Who wants to reach what.
#[derive(Clone, Debug)]
struct Arrival {
    /// The caller's address, as the application shall see it.
    client: SocketAddr,
    /// What the caller's certificate proved; `None` for plaintext.
    identity: Option<SpiffeId>,
    /// The workload's address and port.
    target: SocketAddr,
}

/// A connection that may not go on: what to record, and what to tell the caller.
struct Refused {
    stop: Stop,
    answer: Refusal,
}

/// The Service under which an arrival is recorded. The wire does not say which one the caller used,
/// so of several it is the first by name among those that lead to the port that was reached, and the
/// first of all if none does.
pub(super) fn service_of<'m>(
    mesh: &'m Mesh,
    id: &WorkloadId,
    port: u16,
) -> Option<&'m ServiceName> {
    let names = mesh.services_of(id);
    let leads = |name: &&ServiceName| {
        let service = mesh.service(&name.namespace, &name.name);
        let mut endpoints = service.into_iter().flat_map(|service| &service.endpoints);
        let own = endpoints.find(|endpoint| endpoint.workload.id == *id);
        own.is_some_and(|own| own.target_ports.values().any(|target| *target == port))
    };
    match names {
        [] | [_] => names.first(),
        several => several.iter().find(leads).or(names.first()),
    }
}

impl Arrival {
    /// Begins the story with what is known of both ends.
    fn story(
        &self,
        plane: &Arc<Plane>,
        local: &Local,
        id: ConnectionId,
        security: Security,
    ) -> Story {
        let mesh = plane.mesh.load();
        // An address is no proof: the caller's workload lends its names only if its certificate
        // agrees, or if there is nothing better.
        let bundle = plane.identities.bundle();
        let caller = mesh.workload_at(self.client.ip()).filter(|workload| {
            (self.identity.as_ref())
                .is_none_or(|proven| bundle.same_workload(&workload.identity, proven))
        });
        let mut source = End::unproven(self.client, caller);
        source.identity.clone_from(&self.identity);
        let destination = End::local(self.target, mesh.workload(&local.id));
        let mut story = Story::begin(plane, id, Reporter::Destination, (source, destination));
        story.facts().security = security;
        story.facts().service = service_of(&mesh, &local.id, self.target.port()).cloned();
        story
    }

    /// Judges the arrival and, if it may go on, connects to the application.
    async fn admit(
        &self,
        plane: &Plane,
        local: &Local,
        story: &mut Story,
    ) -> Result<(TcpStream, Reason), Box<Refused>> {
        let mesh = plane.mesh.load_full();
        let Some(destination) = mesh.workload(&local.id) else {
            return Err(Box::new(Refused::gone()));
        };
        let verdict = self.judge(&mesh, destination);
        story.facts().shadows = Shadow::of(&verdict);
        let allowed = admitted(&verdict)?;
        let purpose = Purpose::Application {
            client: self.client,
        };
        let limit = plane.connect_timeout;
        let dialling = local.dialer.connect(self.target, purpose);
        let target = self.target;
        let (label, detail) = match tokio::time::timeout(limit, dialling).await {
            Ok(Ok(app)) => return Ok((app, allowed)),
            Ok(Err(error)) => not_reached(target, &error),
            Err(_elapsed) => {
                let detail = format!("the application at {target} did not accept within {limit:?}");
                (Label::AppUnreachable, detail)
            }
        };
        Err(Box::new(Refused {
            answer: Refusal::unavailable(detail.clone()),
            stop: Stop::failed(ResponseFlags::Connect, because(label, detail)),
        }))
    }

    fn judge(&self, mesh: &Mesh, destination: &Workload) -> Verdict {
        decide::inbound(
            mesh,
            destination,
            Attempt {
                source: self.identity.as_ref(),
                source_ip: self.client.ip(),
                destination_ip: self.target.ip(),
                destination_port: self.target.port(),
            },
        )
    }

    fn basis(&self, local: &Local) -> Basis {
        Basis::Inbound {
            destination: local.id.clone(),
            identity: self.identity.clone(),
            source_ip: self.client.ip(),
            target: self.target,
        }
    }
}

/// Why there is no connection to the application: its doing, or for want of something of the agent's.
fn not_reached(target: SocketAddr, error: &io::Error) -> (Label, String) {
    if is_out_of_resources(error) {
        let detail = format!("the agent has nothing left for a connection to {target}: {error}");
        (Label::AgentExhausted, detail)
    } else {
        let detail = format!("the application at {target} does not accept: {error}");
        (Label::AppUnreachable, detail)
    }
}

/// The reason of a verdict that lets the arrival in.
fn admitted(verdict: &Verdict) -> Result<Reason, Box<Refused>> {
    let reason = reason_of(verdict);
    if verdict.is_allowed() {
        return Ok(reason);
    }
    Err(Box::new(Refused {
        stop: Stop::denied(reason),
        answer: Refusal::denied(verdict.to_string()).by(verdict.policy(), verdict.rule()),
    }))
}

impl Refused {
    fn gone() -> Self {
        let detail = "the workload is no longer part of the mesh";
        Self {
            stop: Stop::denied(because(Label::UnknownDestination, detail)),
            answer: Refusal::unavailable(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{not_reached, service_of};
    use crate::workload::WorkloadId;
    use crate::workload::fixtures::good_mesh;

    const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}}
spec: {nodeName: one, containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.1.0.2}
";

    fn service(name: &str, target: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n\
             spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: {target}}}]}}\n"
        )
    }

    #[rstest]
    #[case::nobody_listens(
        libc::ECONNREFUSED,
        "app_unreachable",
        "the application at 10.1.0.2:8080 does"
    )]
    #[case::no_descriptors(libc::EMFILE, "agent_exhausted", "the agent has nothing left for")]
    fn an_application_is_not_blamed_for_what_the_agent_lacks(
        #[case] error: i32,
        #[case] label: &str,
        #[case] said: &str,
    ) {
        let error = std::io::Error::from_raw_os_error(error);
        let (found, detail) = not_reached("10.1.0.2:8080".parse().unwrap(), &error);
        assert_eq!(found, label);
        assert!(detail.starts_with(said), "{detail}");
    }

    #[rstest]
    #[case::none(&[], 8080, None)]
    #[case::the_only_one(&[("web", "http")], 9090, Some("web"))]
    #[case::the_one_that_leads_there(&[("admin", "9090"), ("web", "http")], 8080, Some("web"))]
    #[case::the_first_by_name(&[("zoo", "8080"), ("web", "http")], 8080, Some("web"))]
    #[case::none_leads_there(&[("zoo", "8080"), ("web", "http")], 7070, Some("web"))]
    fn an_arrival_is_recorded_under_a_service_that_leads_there(
        #[case] services: &[(&str, &str)],
        #[case] port: u16,
        #[case] expected: Option<&str>,
    ) {
        let services = services.iter().map(|(name, target)| service(name, target));
        let mesh = good_mesh(&(WEB.to_owned() + &services.collect::<String>()));
        let id = WorkloadId {
            namespace: "demo".into(),
            name: "web".into(),
        };
        let found = service_of(&mesh, &id, port);
        assert_eq!(found.map(|name| &*name.name), expected);
    }
}
