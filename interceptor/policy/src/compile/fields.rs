//! The lists of a `source` and an `operation`: which L4 decides, and which it cannot.

use super::list::Written;
use crate::field::Attribute;
use crate::spec::{OperationSpec, SourceSpec};
use crate::value::IpBlock;

/// A list that L4 cannot decide.
pub(super) struct Unsupported<'a> {
    pub(super) key: &'static str,
    pub(super) values: &'a [String],
    pub(super) syntax: Syntax,
}

/// What the values of a list that L4 cannot decide must look like all the same.
#[derive(Clone, Copy)]
pub(super) enum Syntax {
    Text,
    Address,
}

impl Syntax {
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        match self {
            _ if value.is_empty() => Err("an empty value is not allowed: remove it".to_owned()),
            Self::Text => Ok(()),
            Self::Address => {
                let block = value.parse::<IpBlock>();
                block.map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

pub(super) fn of_source(source: &SourceSpec) -> [Written<'_>; 5] {
    let s = source;
    [
        written(Attribute::Principal, &s.principals, &s.not_principals),
        written(Attribute::Namespace, &s.namespaces, &s.not_namespaces),
        written(
            Attribute::ServiceAccount,
            &s.service_accounts,
            &s.not_service_accounts,
        ),
        written(
            Attribute::TrustDomain,
            &s.trust_domains,
            &s.not_trust_domains,
        ),
        written(Attribute::SourceIp, &s.ip_blocks, &s.not_ip_blocks),
    ]
}

pub(super) fn of_operation(operation: &OperationSpec) -> Written<'_> {
    written(
        Attribute::DestinationPort,
        &operation.ports,
        &operation.not_ports,
    )
}

pub(super) fn unsupported_of_source(source: &SourceSpec) -> [Unsupported<'_>; 4] {
    [
        address("remoteIpBlocks", &source.remote_ip_blocks),
        address("notRemoteIpBlocks", &source.not_remote_ip_blocks),
        text("requestPrincipals", &source.request_principals),
        text("notRequestPrincipals", &source.not_request_principals),
    ]
}

pub(super) fn unsupported_of_operation(operation: &OperationSpec) -> [Unsupported<'_>; 6] {
    [
        text("hosts", &operation.hosts),
        text("notHosts", &operation.not_hosts),
        text("methods", &operation.methods),
        text("notMethods", &operation.not_methods),
        text("paths", &operation.paths),
        text("notPaths", &operation.not_paths),
    ]
}

const fn written<'a>(
    attribute: Attribute,
    values: &'a [String],
    not_values: &'a [String],
) -> Written<'a> {
    Written {
        attribute,
        values,
        not_values,
    }
}

const fn text<'a>(key: &'static str, values: &'a [String]) -> Unsupported<'a> {
    Unsupported {
        key,
        values,
        syntax: Syntax::Text,
    }
}

const fn address<'a>(key: &'static str, values: &'a [String]) -> Unsupported<'a> {
    Unsupported {
        key,
        values,
        syntax: Syntax::Address,
    }
}
