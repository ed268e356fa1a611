//! Reading `PolicyTest` documents: every mistake with file, line and key, also those that only
//! show when a case is held against its manifests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interceptor_policy::SpiffeId;

use super::super::judge::{Caller, Goal, NOWHERE};
use super::super::world;
use crate::workload::{Mesh, MeshSettings, Service, Workload, WorkloadId};
use crate::yaml::{self, Document, Fields, Limits, Mistake, Reader, Report, Resolved, Value};

const VERSION: &str = "interceptor.dev/v1alpha1";

/// One `PolicyTest`: a mesh, and what is expected of it.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) mesh: Mesh,
    pub(super) cases: Vec<Case>,
}

/// One connection and what is expected to become of it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// `file:line`.
    pub(super) place: String,
    pub(super) caller: Caller,
    pub(super) goal: Goal,
    pub(super) expect: Expect,
    /// `namespace/name` of the policy that must decide.
    pub(super) policy: Option<String>,
}

/// What is expected of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Allow,
    Deny,
    /// An AUDIT policy records it, whatever else becomes of it.
    Audit,
}

/// Every `PolicyTest` in these files, or all mistakes.
pub(super) fn suites(
    files: &[PathBuf],
    settings: &MeshSettings,
) -> Result<Vec<Suite>, Vec<Mistake>> {
    let (mut suites, mut mistakes) = (Vec::new(), Vec::new());
    for path in files {
        let file: Arc<str> = Arc::from(path.to_string_lossy());
        let limits = Limits::default();
        match world::read(path, limits.bytes) {
            Ok(bytes) => {
                let report = Report::default();
                let before = suites.len();
                for document in yaml::parse_bytes(&file, &bytes, &limits, &report) {
                    let folder = path.parent().unwrap_or(Path::new(""));
                    suites.extend(suite(&document, folder, settings, &report, &mut mistakes));
                }
                let found = report.into_mistakes();
                if found.is_empty() && suites.len() == before && mistakes.is_empty() {
                    mistakes.push(Mistake::in_file(&file, "holds no PolicyTest"));
                }
                mistakes.extend(found);
            }
            Err(error) => {
                mistakes.push(Mistake::in_file(&file, format!("cannot be read: {error}")));
            }
        }
    }
    mistakes.retain(Mistake::is_error);
    if mistakes.is_empty() {
        Ok(suites)
    } else {
        Err(mistakes)
    }
}

/// Reads one document. The mistakes of the manifests that it names go to `elsewhere`.
fn suite(
    document: &Document,
    folder: &Path,
    settings: &MeshSettings,
    report: &Report,
    elsewhere: &mut Vec<Mistake>,
) -> Option<Suite> {
    let fields = Reader::new(document, report).fields()?;
    let version = fields.required("apiVersion");
    let kind = fields.required("kind");
    let version = version.and_then(|version| version.one_of(&[(VERSION, ())]));
    let kind = kind.and_then(|kind| kind.one_of(&[("PolicyTest", ())]));
    if version.is_none() || kind.is_none() {
        return None;
    }
    let name = fields.required("metadata").and_then(|meta| {
        let meta = meta.fields()?;
        let name = meta.required("name").and_then(|name| name.name());
        meta.known(&["labels", "annotations", "namespace"]);
        meta.no_others();
        name
    });
    let spec = fields.required("spec").and_then(|spec| spec.fields());
    fields.no_others();
    let spec = spec?;
    let mesh = spec
        .required("manifests")
        .and_then(|manifests| mesh(&manifests, folder, settings, elsewhere));
    let cases = spec.required("cases");
    spec.no_others();
    let cases = cases?;
    // Without a mesh the cases are still read, so that their own mistakes show, too.
    let empty = Mesh::empty(settings.clone());
    let mut names = BTreeMap::new();
    let known = mesh.as_ref();
    let cases = cases.list(|reader| {
        let case = case(reader, known.unwrap_or(&empty), known.is_some())?;
        if let Some(before) = names.insert(case.name.clone(), case.place.clone()) {
            reader.error(format!("there is a case of this name already: {before}"));
        }
        Some(case)
    });
    Some(Suite {
        name: name?.to_owned(),
        mesh: mesh?,
        cases,
    })
}

/// The manifests that a test names, relative to its own folder.
fn mesh(
    manifests: &Reader<'_>,
    folder: &Path,
    settings: &MeshSettings,
    elsewhere: &mut Vec<Mistake>,
) -> Option<Mesh> {
    let paths = manifests.list(|path| Some(folder.join(path.name()?)));
    if paths.is_empty() {
        manifests.error("must name at least one file or folder");
        return None;
    }
    let built = world::objects(&paths).and_then(|objects| world::build(&objects, settings));
    match built {
        Ok(mesh) => Some(mesh),
        Err(mistakes) => {
            elsewhere.extend(mistakes);
            None
        }
    }
}

fn case(reader: &Reader<'_>, mesh: &Mesh, complete: bool) -> Option<Case> {
    let fields = reader.fields()?;
    let name = fields.required("name").and_then(|name| name.name());
    let from = fields.required("from");
    let caller = from.and_then(|from| match &from.node().value {
        Value::Scalar(scalar) if scalar.as_str() == "plaintext" => Some(Caller::plaintext(NOWHERE)),
        _ => caller(&from.fields()?, mesh, complete),
    });
    let to = fields.required("to").and_then(|to| to.fields());
    let goal = to.and_then(|to| goal(&to, mesh, complete));
    let expect = fields.required("expect").and_then(|expect| {
        expect.one_of(&[
            ("allow", Expect::Allow),
            ("deny", Expect::Deny),
            ("audit", Expect::Audit),
        ])
    });
    let policy = fields.optional("policy");
    let policy = policy.map(|policy| policy_name(&policy, mesh, complete));
    fields.no_others();
    Some(Case {
        name: name?.to_owned(),
        place: format!("{}:{}", reader.file(), reader.position().line),
        caller: caller?,
        goal: goal?,
        expect: expect?,
        policy: match policy {
            Some(policy) => Some(policy?),
            None => None,
        },
    })
}

fn caller(from: &Fields<'_>, mesh: &Mesh, complete: bool) -> Option<Caller> {
    let workload = from.optional("workload");
    let identity = from.optional("identity");
    let ip = from.optional("ip");
    let plaintext = from.optional("plaintext");
    from.no_others();
    let plain = plaintext.as_ref().and_then(Reader::boolean) == Some(true);
    let address = ip.as_ref().map(Reader::parsed::<IpAddr>);
    let address = match address {
        Some(address) => Some(address?.to_canonical()),
        None => None,
    };
    let caller = match (&workload, &identity) {
        (Some(_), Some(identity)) => {
            identity.error("a workload has an identity already; name one of the two");
            return None;
        }
        (Some(workload), None) => {
            if let Some(ip) = &ip {
                ip.error("a workload has an address already; name one of the two");
            }
            Caller::workload(&find_workload(workload, mesh, complete)?)
        }
        (None, Some(identity)) => {
            if plain {
                identity.error("plaintext proves no identity; name one of the two");
            }
            Caller::proven(spiffe(identity)?, address.unwrap_or(NOWHERE))
        }
        (None, None) => match address {
            Some(address) => Caller::at(mesh, address),
            None if plain => Caller::plaintext(NOWHERE),
            None => {
                let who = "must say who calls: workload, identity, ip or plaintext: true";
                from.reader().error(who);
                return None;
            }
        },
    };
    Some(if plain {
        Caller::plaintext(caller.ip)
    } else {
        caller
    })
}

fn goal(to: &Fields<'_>, mesh: &Mesh, complete: bool) -> Option<Goal> {
    let (workload, service, ip) = (
        to.optional("workload"),
        to.optional("service"),
        to.optional("ip"),
    );
    let port = to.required("port");
    to.no_others();
    let port = port.and_then(|port| Port::read(&port));
    match (workload, service, ip) {
        (Some(name), None, None) => {
            let workload = find_workload(&name, mesh, complete)?;
            let port = port?.of_workload(&workload)?;
            Some(Goal::Workload(workload, port))
        }
        (None, Some(name), None) => {
            let service = find_service(&name, mesh, complete)?;
            let port = port?.of_service(&service)?;
            Some(Goal::Service(service, port))
        }
        (None, None, Some(ip)) => {
            let ip = ip.parsed::<IpAddr>()?.to_canonical();
            let port = port?;
            if let Some(service) = mesh.service_at(ip) {
                let port = port.of_service(service)?;
                return Some(Goal::Service(Arc::clone(service), port));
            }
            if let Some(workload) = mesh.workload_at(ip) {
                let port = port.of_workload(workload)?;
                return Some(Goal::Workload(Arc::clone(workload), port));
            }
            let port = port.number(|_| None, "an address outside of the mesh", complete)?;
            Some(Goal::Elsewhere(SocketAddr::new(ip, port)))
        }
        _ => {
            let one = "must say what is called with one of workload, service and ip";
            to.reader().error(one);
            None
        }
    }
}

/// A port as written: a number, or the name that it has at what is called.
struct Port<'a> {
    reader: Reader<'a>,
    written: Result<u16, &'a str>,
}

impl<'a> Port<'a> {
    fn read(reader: &Reader<'a>) -> Option<Self> {
        let number = matches!(&reader.node().value, Value::Scalar(scalar)
            if scalar.resolve() == Resolved::Integer);
        let written = if number {
            Ok(reader.integer(1..=u16::MAX)?)
        } else {
            // A name has a letter, so that digits in quotes are a number, too.
            let name = reader.name()?;
            name.parse().ok().filter(|port| *port > 0).ok_or(name)
        };
        Some(Self {
            reader: reader.clone(),
            written,
        })
    }

    fn of_workload(&self, workload: &Workload) -> Option<u16> {
        let what = format!("workload {}", workload.id);
        self.number(|name| workload.ports.get(name).copied(), &what, true)
    }

    fn of_service(&self, service: &Service) -> Option<u16> {
        let named = |name: &str| {
            let mut ports = service.ports.iter();
            let port = ports.find(|port| port.name.as_deref() == Some(name))?;
            Some(port.port)
        };
        let what = format!("Service {}", service.name);
        let port = self.number(named, &what, true)?;
        if !service.ports.iter().any(|known| known.port == port) {
            let known: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
            let known = known.join(", ");
            self.reader
                .error(format!("{what} has no TCP port {port}; it has {known}"));
            return None;
        }
        let leads =
            |endpoint: &crate::workload::Endpoint| endpoint.target_ports.contains_key(&port);
        if !service.endpoints.iter().any(leads) {
            let message = format!("port {port} of {what} leads to no workload of the manifests");
            self.reader.error(message);
            return None;
        }
        Some(port)
    }

    fn number(
        &self,
        named: impl Fn(&str) -> Option<u16>,
        what: &str,
        complete: bool,
    ) -> Option<u16> {
        let name = match self.written {
            Ok(number) => return Some(number),
            Err(name) => name,
        };
        let number = named(name);
        if number.is_none() && complete {
            self.reader
                .error(format!("{what} has no port named `{name}`"));
        }
        number
    }
}

fn find_workload(reader: &Reader<'_>, mesh: &Mesh, complete: bool) -> Option<Arc<Workload>> {
    let (namespace, name) = pair(reader)?;
    let id = WorkloadId {
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    };
    let found = mesh.workload(&id).cloned();
    if found.is_none() && complete {
        missing(
            reader,
            "workload",
            mesh.workloads().map(|w| w.id.to_string()),
        );
    }
    found
}

fn find_service(reader: &Reader<'_>, mesh: &Mesh, complete: bool) -> Option<Arc<Service>> {
    let (namespace, name) = pair(reader)?;
    let found = mesh.service(namespace, name).cloned();
    if found.is_none() && complete {
        missing(
            reader,
            "Service",
            mesh.services().map(|s| s.name.to_string()),
        );
    }
    found
}

fn policy_name(reader: &Reader<'_>, mesh: &Mesh, complete: bool) -> Option<String> {
    let (namespace, name) = pair(reader)?;
    let written = format!("{namespace}/{name}");
    let set = mesh.policy_set();
    let known = || {
        let policies = set.policies().map(interceptor_policy::Policy::name);
        policies
            .chain(set.peer_authentications())
            .map(ToString::to_string)
    };
    if complete && !known().any(|name| name == written) {
        missing(reader, "policy", known());
        return None;
    }
    Some(written)
}

/// `namespace/name`.
fn pair<'a>(reader: &Reader<'a>) -> Option<(&'a str, &'a str)> {
    let text = reader.name()?;
    let pair = text.split_once('/');
    if pair.is_none() {
        reader.error("must be namespace/name");
    }
    pair
}

fn missing(reader: &Reader<'_>, what: &str, known: impl Iterator<Item = String>) {
    let known: Vec<String> = known.collect();
    let written = reader.text().unwrap_or_default();
    let hint = match yaml::nearest(written, known.iter().map(String::as_str)) {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    };
    reader.error(format!("the manifests have no {what} {written}{hint}"));
}

/// `spiffe://td/ns/a/sa/b`, or the same without the scheme, as policies write it.
fn spiffe(reader: &Reader<'_>) -> Option<SpiffeId> {
    let text = reader.name()?;
    let full = if text.starts_with("spiffe://") {
        text.to_owned()
    } else {
        format!("spiffe://{text}")
    };
    match full.parse() {
        Ok(identity) => Some(identity),
        Err(error) => {
            reader.error(format!("is no SPIFFE ID: {error}"));
            None
        }
    }
}
