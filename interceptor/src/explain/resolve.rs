//! From what somebody typed to who calls and what is called.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use interceptor_policy::SpiffeId;

use super::Mesh;
use crate::workload::external::{External, Registered};
use crate::workload::{Service, ServiceName, Workload, WorkloadId};
use crate::yaml::nearest;

/// So many names are listed where none is like the one that was asked for.
const LISTED: usize = 8;

/// Who calls.
pub(super) enum Caller {
    /// A workload of the mesh; the identity is its own.
    Workload {
        workload: Arc<Workload>,
        /// What else there is to know about how it was found.
        note: Option<String>,
    },
    /// Somebody with this identity; no workload has it.
    Identity(SpiffeId),
    /// Somebody outside of the mesh, at an address if one is known.
    Stranger(Option<IpAddr>),
}

/// What is called: the addresses that a client would connect to.
pub(super) struct Called {
    pub(super) addresses: Vec<SocketAddr>,
    /// How it was found.
    pub(super) told: String,
}

pub(super) fn caller(mesh: &Mesh, text: &str) -> Result<Caller, String> {
    if matches!(text, "plaintext" | "outside") {
        return Ok(Caller::Stranger(None));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(match mesh.workload_at(address) {
            Some(workload) => Caller::Workload {
                workload: Arc::clone(workload),
                note: Some(format!("the workload at {address}")),
            },
            None => Caller::Stranger(Some(address.to_canonical())),
        });
    }
    if text.starts_with("spiffe://") || text.contains("/ns/") {
        return identity(mesh, text);
    }
    let Some((namespace, name)) = text.split_once('/') else {
        let mut namesakes = mesh
            .workloads()
            .filter(|workload| *workload.id.name == *text);
        if let Some(workload) = namesakes.next() {
            return Err(format!(
                "{text:?} has no namespace; did you mean {}?",
                workload.id
            ));
        }
        return Err(format!(
            "{text:?} is not a caller: write NAMESPACE/NAME of a workload, an identity \
             (spiffe://…), an IP address, or plaintext"
        ));
    };
    let (workload, note) = workload(mesh, namespace, name)?;
    Ok(Caller::Workload { workload, note })
}

fn identity(mesh: &Mesh, text: &str) -> Result<Caller, String> {
    let uri = if text.starts_with("spiffe://") {
        text.to_owned()
    } else {
        format!("spiffe://{text}")
    };
    let id: SpiffeId =
        (uri.parse()).map_err(|error| format!("{text:?} is no identity: {error}"))?;
    let mut having = mesh.workloads().filter(|workload| workload.identity == id);
    Ok(match (having.next(), having.count()) {
        (None, _) => Caller::Identity(id),
        (Some(workload), others) => Caller::Workload {
            workload: Arc::clone(workload),
            note: (others > 0).then(|| format!("{others} more workloads have this identity")),
        },
    })
}

/// A workload by its own name, or the first of those that a controller made under this name.
fn workload(
    mesh: &Mesh,
    namespace: &str,
    name: &str,
) -> Result<(Arc<Workload>, Option<String>), String> {
    let id = WorkloadId {
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    };
    if let Some(workload) = mesh.workload(&id) {
        return Ok((Arc::clone(workload), None));
    }
    let mut made = (mesh.workloads())
        .filter(|w| *w.id.namespace == *namespace && *w.canonical.workload == *name);
    if let Some(first) = made.next() {
        let others = made.count();
        let note = (others > 0).then(|| format!("the first of {} of {name}", others + 1));
        return Ok((Arc::clone(first), note));
    }
    let known: Vec<String> = mesh.workloads().map(|w| w.id.to_string()).collect();
    Err(unknown("workload", &id.to_string(), &known))
}

pub(super) fn unknown(kind: &str, name: &str, known: &[String]) -> String {
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("there is no {kind} {name}; did you mean {meant}?"),
        None if known.is_empty() => format!("there is no {kind} {name}, and none at all"),
        None if known.len() <= LISTED => {
            format!("there is no {kind} {name}; there is {}", known.join(", "))
        }
        None => {
            let count = known.len();
            format!("there is no {kind} {name} among {count} that are known")
        }
    }
}

pub(super) fn called(mesh: &Mesh, own_namespace: &str, text: &str) -> Result<Called, String> {
    let (name, port) = split_port(text);
    if let Ok(address) = name.parse::<IpAddr>() {
        return at_address(mesh, own_namespace, address, port);
    }
    if let Some((namespace, name)) = name.split_once('/') {
        return by_name(mesh, namespace, name, port);
    }
    if let Some(service) = by_host(mesh, own_namespace, name) {
        return of_service(service, port);
    }
    if let Some(entry) = entry_of_host(mesh, own_namespace, name) {
        return of_entry(entry, name, port);
    }
    let hosts: Vec<String> = mesh.services().map(|s| s.name.host.to_string()).collect();
    Err(unknown("Service with the host", name, &hosts))
}

/// `host:port`, `address`, `[address]:port`; an IPv6 address without brackets has no port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((address, port)) = rest.split_once(']')
    {
        return (address, port.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

fn at_address(
    mesh: &Mesh,
    own_namespace: &str,
    address: IpAddr,
    port: Option<&str>,
) -> Result<Called, String> {
    let number = port.and_then(|port| port.parse::<u16>().ok());
    if let Some(number) = number {
        let what = match (mesh.service_at(address), mesh.workload_at(address)) {
            (Some(service), _) => format!("address of Service {}", service.name),
            (None, Some(workload)) => format!("address of workload {}", workload.id),
            (None, None) => registered(mesh, own_namespace, SocketAddr::new(address, number)),
        };
        return Ok(Called {
            addresses: vec![SocketAddr::new(address, number)],
            told: what,
        });
    }
    match (mesh.service_at(address), mesh.workload_at(address)) {
        (Some(service), _) => of_service(service, port),
        (None, Some(workload)) => of_workload(workload, port),
        (None, None) => Err(format!("which port of {address}? write {address}:PORT")),
    }
}

/// What the mesh knows of an address that no Service and no workload has.
fn registered(mesh: &Mesh, own_namespace: &str, to: SocketAddr) -> String {
    match mesh.registered_at(own_namespace, to) {
        Registered::Entry(entry) => format!("address of ServiceEntry {}", entry.name),
        Registered::Endpoint(entry) => format!("endpoint of ServiceEntry {}", entry.name),
        Registered::OtherPort(entry) => {
            format!(
                "address of ServiceEntry {}, which does not have the port",
                entry.name
            )
        }
        Registered::Nothing => "an address that the mesh does not know".to_owned(),
    }
}

/// The entry that has a host, if the namespace may use it.
fn entry_of_host<'m>(mesh: &'m Mesh, own_namespace: &str, host: &str) -> Option<&'m External> {
    let has = |written: &Arc<str>| match written.strip_prefix('*') {
        Some(below) => host.ends_with(below),
        None => **written == *host,
    };
    let mut visible = mesh
        .externals()
        .filter(|entry| entry.is_visible_to(own_namespace));
    let found = visible.find(|entry| entry.hosts.iter().any(has));
    found.map(|entry| &**entry)
}

/// A host outside of the mesh, as far as an address tells.
fn of_entry(entry: &External, host: &str, port: Option<&str>) -> Result<Called, String> {
    let name = &entry.name;
    let number = match (port, entry.ports.as_slice()) {
        (Some(text), ports) => {
            let named = ports.iter().find(|port| port.name.as_deref() == Some(text));
            let number = named.map(|port| port.port).or_else(|| text.parse().ok());
            number.ok_or_else(|| format!("ServiceEntry {name} has no port named {text}"))?
        }
        (None, [only]) => only.port,
        (None, _) => {
            return Err(format!(
                "which port of ServiceEntry {name}? write {host}:PORT"
            ));
        }
    };
    let own = entry.addresses.iter();
    let single = own.filter(|range| range.prefix_len() == range.max_prefix_len());
    let mut addresses: Vec<SocketAddr> = single
        .take(1)
        .map(|range| SocketAddr::new(range.addr(), number))
        .collect();
    if addresses.is_empty() {
        addresses.extend(entry.endpoints.iter().filter_map(|endpoint| {
            let target = endpoint.target_ports.get(&number)?;
            Some(SocketAddr::new(endpoint.address, *target))
        }));
    }
    if addresses.is_empty() {
        return Err(format!(
            "{host} cannot be decided by address: only DNS knows the addresses of ServiceEntry \
             {name}; ask with the address that it resolves to"
        ));
    }
    Ok(Called {
        addresses,
        told: format!("ServiceEntry {name} port {number}"),
    })
}

/// A Service, or else a workload.
fn by_name(mesh: &Mesh, namespace: &str, name: &str, port: Option<&str>) -> Result<Called, String> {
    if let Some(service) = mesh.service(namespace, name) {
        return of_service(service, port);
    }
    if let Ok((workload, _)) = workload(mesh, namespace, name) {
        return of_workload(&workload, port);
    }
    let services = mesh.services().map(|service| service.name.to_string());
    let workloads = mesh.workloads().map(|workload| workload.id.to_string());
    let known: Vec<String> = services.chain(workloads).collect();
    let wanted = format!("{namespace}/{name}");
    Err(unknown("Service or workload", &wanted, &known))
}

/// A Service by what DNS would take for its name in this namespace.
pub(super) fn by_host<'m>(
    mesh: &'m Mesh,
    own_namespace: &str,
    host: &str,
) -> Option<&'m Arc<Service>> {
    let host = host.trim_end_matches('.');
    let names = |name: &ServiceName| {
        let short = host.split('.').collect::<Vec<_>>();
        *name.host == *host
            || match short.as_slice() {
                [own] => *name.name == **own && *name.namespace == *own_namespace,
                [own, namespace] | [own, namespace, "svc"] => {
                    *name.name == **own && *name.namespace == **namespace
                }
                _ => false,
            }
    };
    mesh.services().find(|service| names(&service.name))
}

fn of_service(service: &Service, port: Option<&str>) -> Result<Called, String> {
    let number = service_port(service, port)?;
    let told = format!("Service {} port {number}", service.name);
    if let Some(address) = service.addresses.first() {
        return Ok(Called {
            addresses: vec![SocketAddr::new(*address, number)],
            told,
        });
    }
    // DNS answers with the endpoints, and clients connect to the port that they think of.
    let addresses: Vec<SocketAddr> = (service.endpoints.iter())
        .filter_map(|endpoint| {
            let target = endpoint.target_ports.get(&number)?;
            let address = endpoint.workload.addresses.first()?;
            Some(SocketAddr::new(*address, *target))
        })
        .collect();
    if addresses.is_empty() {
        return Err(format!(
            "{told} is headless and has no endpoint with an address, so its host resolves to nothing"
        ));
    }
    let told = format!("headless {told}: its host resolves to its endpoints");
    Ok(Called { addresses, told })
}

/// A port if it is written as a number.
fn number(text: &str) -> Result<Option<u16>, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let number = text.parse::<u16>();
    number
        .map(Some)
        .map_err(|_too_large| format!("{text} is not a port: they end at {}", u16::MAX))
}

/// A port of a Service by number or name; its only one if none is given.
pub(super) fn service_port(service: &Service, port: Option<&str>) -> Result<u16, String> {
    let Some(text) = port else {
        return match service.ports.as_slice() {
            [only] => Ok(only.port),
            [] => Err(format!("Service {} has no TCP port", service.name)),
            several => {
                let known = several.iter().map(|port| match &port.name {
                    Some(name) => format!("{} ({name})", port.port),
                    None => port.port.to_string(),
                });
                let known = known.collect::<Vec<_>>().join(", ");
                Err(format!(
                    "which port of Service {}? it has {known}",
                    service.name
                ))
            }
        };
    };
    if let Some(number) = number(text)? {
        return Ok(number);
    }
    let named = |port: &&crate::workload::ServicePort| port.name.as_deref() == Some(text);
    if let Some(port) = service.ports.iter().find(named) {
        return Ok(port.port);
    }
    let names: Vec<String> = (service.ports.iter())
        .filter_map(|port| port.name.clone())
        .collect();
    let what = format!("port of Service {} named", service.name);
    Err(unknown(&what, text, &names))
}

fn of_workload(workload: &Workload, port: Option<&str>) -> Result<Called, String> {
    let id = &workload.id;
    let number = match port {
        Some(text) => match (number(text)?, workload.ports.get(text)) {
            (Some(number), _) | (_, Some(&number)) => number,
            _ => {
                let names: Vec<String> = workload.ports.keys().cloned().collect();
                let what = format!("port of workload {id} named");
                return Err(unknown(&what, text, &names));
            }
        },
        None => match workload.ports.values().collect::<Vec<_>>().as_slice() {
            [only] => **only,
            _ => return Err(format!("which port of workload {id}? write {id}:PORT")),
        },
    };
    let Some(address) = workload.addresses.first() else {
        return Err(format!("workload {id} has no address yet"));
    };
    Ok(Called {
        addresses: vec![SocketAddr::new(*address, number)],
        told: format!("workload {id}"),
    })
}
