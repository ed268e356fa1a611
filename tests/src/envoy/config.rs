//! Envoy's configuration for both roles, as JSON, which it reads as it is.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Party;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Where Envoy's client carries connections.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// The peer's HBONE listener.
    pub gateway: SocketAddr,
    /// The authority of the CONNECT.
    pub authority: SocketAddr,
}

/// What Envoy reads and writes.
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    roots: PathBuf,
    access: PathBuf,
}

impl Files {
    pub(super) fn write(folder: &Path, ca: &Path, party: Party<'_>) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let (chain, key) = super::credentials(ca, party.identity)?;
        let files = Self {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            roots: folder.join("ca.crt"),
            access: folder.join("access.log"),
        };
        fs::write(&files.certificate, chain)?;
        fs::write(&files.key, key)?;
        fs::copy(ca.join("ca.crt"), &files.roots).context("copy the CA's certificate")?;
        Ok(files)
    }
}

/// Envoy as the server of mutual TLS and nothing else: carries each connection's bytes to `app`.
pub(super) fn tls_server(
    files: &Files,
    party: Party<'_>,
    listen: SocketAddr,
    app: SocketAddr,
) -> Value {
    let mut tls = tls_context(files, party);
    insert(&mut tls, "@type", json!(typed(DOWNSTREAM)));
    insert(&mut tls, "require_client_certificate", json!(true));
    let listener = json!({
        "name": "tls",
        "address": address(listen),
        "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            "filters": [filter("tcp_proxy", &tcp_proxy(files, "app"))],
        }],
    });
    let cluster = json!({
        "name": "app",
        "connect_timeout": "5s",
        "load_assignment": endpoints("app", app),
    });
    bootstrap(&listener, &cluster)
}

/// Envoy as its client: a connection over mutual TLS for each that it takes.
pub(super) fn tls_client(
    files: &Files,
    party: Party<'_>,
    listen: SocketAddr,
    gateway: SocketAddr,
) -> Value {
    let mut tls = tls_context(files, party);
    insert(&mut tls, "@type", json!(typed(UPSTREAM)));
    let listener = json!({
        "name": "app",
        "address": address(listen),
        "filter_chains": [{ "filters": [filter("tcp_proxy", &tcp_proxy(files, "tls"))] }],
    });
    let cluster = json!({
        "name": "tls",
        "connect_timeout": "5s",
        "load_assignment": endpoints("tls", gateway),
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
    });
    bootstrap(&listener, &cluster)
}

const UPSTREAM: &str = "transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM: &str = "transport_sockets.tls.v3.DownstreamTlsContext";

fn filter(name: &str, config: &Value) -> Value {
    json!({ "name": format!("envoy.filters.network.{name}"), "typed_config": config })
}

/// Carries connections to a cluster, with a line in the access log for each, as HBONE's has one.
fn tcp_proxy(files: &Files, cluster: &str) -> Value {
    json!({
        "@type": typed("filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "app",
        "cluster": cluster,
        "access_log": [access_log(files, &json!({
            "flags": "%RESPONSE_FLAGS%",
            "peer": "%UPSTREAM_PEER_URI_SAN%",
            "received": "%BYTES_RECEIVED%",
            "sent": "%BYTES_SENT%",
        }))],
    })
}

/// Envoy as the server of HBONE: ends mutual TLS and CONNECT, and carries the bytes to `app`.
pub(super) fn server(
    files: &Files,
    party: Party<'_>,
    listen: SocketAddr,
    app: SocketAddr,
) -> Value {
    let manager = json!({
        "@type": typed("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "hbone",
        "codec_type": "HTTP2",
        "http2_protocol_options": { "allow_connect": true },
        "access_log": [access_log(files, &json!({
            "authority": "%REQ(:AUTHORITY)%",
            "status": "%RESPONSE_CODE%",
            "peer": "%DOWNSTREAM_PEER_URI_SAN%",
            "tls": "%DOWNSTREAM_TLS_VERSION%",
            "cipher": "%DOWNSTREAM_TLS_CIPHER%",
            "forwarded": "%REQ(FORWARDED)%",
            "traceparent": "%REQ(TRACEPARENT)%",
            "baggage": "%REQ(BAGGAGE)%",
            "received": "%BYTES_RECEIVED%",
            "sent": "%BYTES_SENT%",
        }))],
        "route_config": { "virtual_hosts": [{
            "name": "any",
            "domains": ["*"],
            "routes": [{
                "match": { "connect_matcher": {} },
                "route": {
                    "cluster": "app",
                    "timeout": "0s",
                    "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                },
            }],
        }] },
        "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": typed("filters.http.router.v3.Router") },
        }],
    });
    let mut tls = tls_context(files, party);
    insert(&mut tls, "@type", json!(typed(DOWNSTREAM)));
    insert(&mut tls, "require_client_certificate", json!(true));
    let listener = json!({
        "name": "hbone",
        "address": address(listen),
        "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }],
        }],
    });
    let cluster = json!({
        "name": "app",
        "connect_timeout": "5s",
        "load_assignment": endpoints("app", app),
    });
    bootstrap(&listener, &cluster)
}

/// Envoy as the client of HBONE: carries plain TCP through CONNECT.
pub(super) fn client(files: &Files, party: Party<'_>, listen: SocketAddr, tunnel: Tunnel) -> Value {
    let proxy = json!({
        "@type": typed("filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "app",
        "cluster": "hbone",
        "tunneling_config": {
            "hostname": tunnel.authority.to_string(),
            "propagate_response_headers": true,
            "headers_to_add": [{ "header": {
                "key": "forwarded",
                "value": "for=\"%DOWNSTREAM_REMOTE_ADDRESS%\"",
            } }],
        },
        "access_log": [access_log(files, &json!({
            "flags": "%RESPONSE_FLAGS%",
            "details": "%RESPONSE_CODE_DETAILS%",
            "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
            "peer": "%UPSTREAM_PEER_URI_SAN%",
            "cipher": "%UPSTREAM_TLS_CIPHER%",
            "proxy_status": "%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:TYPED)%",
            "received": "%BYTES_RECEIVED%",
            "sent": "%BYTES_SENT%",
        }))],
    });
    let mut tls = tls_context(files, party);
    insert(&mut tls, "@type", json!(typed(UPSTREAM)));
    let listener = json!({
        "name": "app",
        "address": address(listen),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": proxy,
        }] }],
    });
    let cluster = json!({
        "name": "hbone",
        "connect_timeout": "5s",
        "load_assignment": endpoints("hbone", tunnel.gateway),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": typed("upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
    });
    bootstrap(&listener, &cluster)
}

fn bootstrap(listener: &Value, cluster: &Value) -> Value {
    json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } })
}

/// Mutual TLS 1.3, and one SPIFFE identity that is accepted.
fn tls_context(files: &Files, party: Party<'_>) -> Value {
    json!({ "common_tls_context": {
        "alpn_protocols": [party.protocol],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": { "filename": files.certificate },
            "private_key": { "filename": files.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": files.roots },
            "match_typed_subject_alt_names": [{
                "san_type": "URI",
                "matcher": { "exact": party.peer },
            }],
        },
    } })
}

fn access_log(files: &Files, format: &Value) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": typed("access_loggers.file.v3.FileAccessLog"),
            "path": files.access,
            "log_format": { "json_format": format },
        },
    })
}

fn endpoints(name: &str, at: SocketAddr) -> Value {
    json!({
        "cluster_name": name,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(at) } }] }],
    })
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
}

fn typed(name: &str) -> String {
    format!("{TYPES}.{name}")
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}
