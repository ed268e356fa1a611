//! Trust-domain aliases: one written principal may mean several.
//!
//! As Istio does it: a principal of five parts whose trust domain is the mesh's own, an alias or
//! `cluster.local` is meant in all of the mesh's trust domains. `*` as the trust domain, principals
//! of another shape and foreign trust domains stay as written; a trust domain such as `*-prod`
//! stays as written for those that it matches, and is replaced for the others.

use crate::TrustDomain;
use crate::settings::Settings;
use crate::value::Pattern;

/// The name under which policies mean "this mesh", whatever its trust domain is.
const LOCAL: &str = "cluster.local";

/// The principals that a written one means.
pub(super) fn principals(text: &str, settings: &Settings) -> Result<Vec<Pattern>, String> {
    let written = Pattern::parse(text)?;
    let Some((trust_domain, rest)) = five_parts(text) else {
        return Ok(vec![written]);
    };
    let ours = trust_domain == LOCAL || all(settings).any(|own| meets(own, trust_domain));
    if trust_domain == "*" || !ours {
        return Ok(vec![written]);
    }
    let mut patterns = Vec::new();
    for own in all(settings) {
        let pattern = if is_suffix_of(trust_domain, own) {
            written.clone()
        } else {
            Pattern::parse(&format!("{own}/{rest}"))?
        };
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

/// The trust domains that a written one means.
pub(super) fn trust_domains(text: &str, settings: &Settings) -> Result<Vec<Pattern>, String> {
    let written = Pattern::parse(text)?;
    if !all(settings).any(|own| own.as_str() == text) {
        return Ok(vec![written]);
    }
    let mut patterns: Vec<Pattern> = Vec::new();
    for own in all(settings) {
        let pattern = Pattern::Exact(own.as_str().into());
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

fn all(settings: &Settings) -> impl Iterator<Item = &TrustDomain> {
    std::iter::once(&settings.trust_domain).chain(&settings.trust_domain_aliases)
}

/// The trust domain and the rest of `td/ns/n/sa/s`.
fn five_parts(text: &str) -> Option<(&str, &str)> {
    (text.split('/').count() == 5)
        .then(|| text.split_once('/'))
        .flatten()
}

fn meets(own: &TrustDomain, written: &str) -> bool {
    own.as_str() == written || is_suffix_of(written, own)
}

/// Whether `written` is `*x` and `own` ends in x.
fn is_suffix_of(written: &str, own: &TrustDomain) -> bool {
    written
        .strip_prefix('*')
        .is_some_and(|suffix| own.as_str().ends_with(suffix))
}
