//! Istio's `WorkloadEntry`.

use std::net::IpAddr;
use std::sync::Arc;

use super::meta::{meta, origin, written};
use super::{NamedPort, WorkloadEntry, Written};
use crate::yaml::{Fields, Reader};

/// Reads a `WorkloadEntry` from the fields of its top level.
pub(super) fn read(object: &Fields<'_>) -> Option<WorkloadEntry> {
    object.known(&["status"]);
    let meta = meta(object);
    let spec = object.required("spec").and_then(|spec| spec.fields());
    object.no_others();
    let spec = spec?;
    let address = address(&spec);
    let ports = ports(&spec);
    let labels = spec.optional("labels").map(|labels| labels.text_map());
    let weight = spec
        .optional("weight")
        .and_then(|w| w.integer(0..=u32::MAX));
    let account = spec.optional("serviceAccount");
    let account_name = account.as_ref().and_then(Reader::text);
    spec.known(&["network", "locality"]);
    spec.no_others();
    let mut meta = meta?;
    let more = labels.unwrap_or_default();
    Arc::make_mut(&mut meta.labels).extend(more);
    Some(WorkloadEntry {
        meta,
        service_account: Written {
            value: match account_name {
                None | Some("") => "default".to_owned(),
                Some(name) => name.to_owned(),
            },
            origin: origin(account.as_ref().unwrap_or(spec.reader())),
        },
        address,
        ports,
        // Istio's default share is 1.
        weight: weight.unwrap_or(1).max(1),
    })
}

/// A host name is right in Istio, but nothing resolves it here: the workload has no address then.
fn address(spec: &Fields<'_>) -> Option<Written<IpAddr>> {
    let reader = spec.optional("address")?;
    let text = reader.name()?;
    match text.parse::<IpAddr>() {
        Ok(address) => Some(written(&reader, address.to_canonical())),
        Err(_) if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') || text.contains(':') => {
            reader.error("is not an IP address");
            None
        }
        Err(_) => {
            reader.warning(
                "is not an IP address; host names are not resolved, so nothing reaches it",
            );
            None
        }
    }
}

fn ports(spec: &Fields<'_>) -> Vec<Written<NamedPort>> {
    let Some(reader) = spec.optional("ports") else {
        return Vec::new();
    };
    reader
        .entries()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let port = value.integer(1..=u16::MAX)?;
            let name = name.to_owned();
            Some(written(&value, NamedPort { name, port }))
        })
        .collect()
}
