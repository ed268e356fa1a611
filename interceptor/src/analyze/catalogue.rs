//! Every finding that `analyze` can make: Istio's code where it is Istio's finding, ours otherwise.
//!
//! `docs/analyze.md` is made from this, so what is here is what people read.

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; often as intended.
    Note,
    /// Probably not what was meant.
    Warning,
    /// Broken, or a hole.
    Error,
}

impl Severity {
    /// The word.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// `IST0127` if Istio has the same finding, `INT0101` if nobody does.
    pub code: &'static str,
    /// The name that goes with it; Istio's where the code is Istio's.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, for the documentation.
    pub meaning: &'static str,
    /// What to do, for the documentation.
    pub remedy: &'static str,
}

macro_rules! catalogue {
    ($($constant:ident $code:literal $name:literal $severity:ident, $meaning:literal, $remedy:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub(super) const $constant: Check = Check {
                code: $code,
                name: $name,
                severity: Severity::$severity,
                meaning: $meaning,
                remedy: $remedy,
            };
        )*
        /// All of them, by code.
        pub const CATALOGUE: &[&Check] = &[$(&$constant),*];
    };
}

catalogue! {
    REFERENCE_NOT_FOUND "IST0101" "ReferencedResourceNotFound" Error,
        "A policy is attached to a Service that these manifests do not have, though they have others of its namespace.",
        "Correct the name, or add the Service.";
    SCHEMA_ERROR "IST0106" "SchemaValidationError" Error,
        "The agent refuses the object or cannot read it, and a folder that holds it would not take effect.",
        "The finding says what is expected at that place.";
    MISPLACED_ANNOTATION "IST0107" "MisplacedAnnotation" Warning,
        "An annotation or label that means something on a Pod stands on another object, where nobody reads it.",
        "Move it to the Pod template (spec.template.metadata).";
    PORT_NAME "IST0118" "PortNameIsNotUnderNamingConvention" Note,
        "A Service port's name tells no protocol, so Istio's proxies guess it and a waypoint applies no L7 policy to it. This agent never guesses: it carries the port as TCP.",
        "Begin the name with the protocol (http-, grpc-, tcp-, ...), or set appProtocol.";
    NO_WORKLOADS "IST0127" "NoMatchingWorkloadsFound" Warning,
        "The selector of a policy selects no workload of these manifests, so the policy holds for nothing.",
        "Compare the labels with the Pods', and the namespace with theirs.";
    SCHEMA_WARNING "IST0133" "SchemaWarning" Warning,
        "The object is used, but something in it does not do what it seems to.",
        "The finding says what is ignored or taken differently.";
    EXTERNAL_NAME_PORT "IST0150" "ExternalNameServiceTypeInvalidPortName" Warning,
        "A port of an ExternalName Service is named tcp or tells no protocol, which makes Istio's proxies capture that port for every address.",
        "Name the port after its HTTP or TLS protocol, or leave the ports out.";
    DUPLICATE "INT0001" "DuplicateObject" Warning,
        "An object is there twice. The agent refuses a folder with both; with kubectl the one applied last wins.",
        "Delete one of them.";
    NOT_READ "INT0002" "KindNotRead" Note,
        "This release does not read this kind, so what such objects say is not enforced by this agent.",
        "Keep it for Istio's own proxies; do not count on it here.";
    NOT_COMPARED "INT0003" "TooMuchToCompare" Warning,
        "There is so much of something that not all of it was looked at, or not all pairs of it were compared. Silence about the rest is no answer.",
        "Analyze one namespace at a time.";
    NO_PODS "INT0004" "NoWorkloadsGiven" Note,
        "These manifests have no Pod and no template of one, so selectors and ports could not be checked.",
        "Give the Deployments, too: -f takes several files and folders.";
    DENY_DEAD "INT0101" "DenyNeverMatches" Error,
        "A rule of a DENY policy can never match: what it should keep out comes in.",
        "Correct the fields that exclude each other.";
    RULE_DEAD "INT0102" "RuleNeverMatches" Warning,
        "A rule can never match any connection, so it allows or records nothing.",
        "Correct the fields that exclude each other, or delete the rule.";
    ENTRY_DEAD "INT0103" "EntryNeverMatches" Warning,
        "An entry of from or to can never match, though its rule can.",
        "Correct the fields that exclude each other, or delete the entry.";
    OVERRULED "INT0104" "AllowOverruledByDeny" Warning,
        "A rule allows only what a DENY rule always refuses, so it never allows anything.",
        "Delete it, or narrow the DENY.";
    REDUNDANT "INT0105" "RuleRedundant" Note,
        "Another rule with the same effect matches everything that this rule matches.",
        "Delete it, or narrow the other one if that was meant.";
    ALLOWS_PLAINTEXT "INT0106" "AllowAdmitsPlaintext" Warning,
        "An ALLOW rule only says who may not call. A caller without mutual TLS has no identity that could be excluded, so it comes in at every port that is not STRICT.",
        "Say who may call (principals, namespaces), or make the port STRICT.";
    ALLOWS_ANYBODY "INT0107" "AllowWithoutIdentity" Note,
        "An ALLOW rule asks for no identity, and the port takes plaintext: whoever reaches it may call.",
        "Add from.source with principals or namespaces if that is not meant.";
    DENY_EVADED "INT0108" "DenyEvadedByPlaintext" Warning,
        "A DENY rule knows its callers by identity, and the port takes plaintext: whoever it names comes in by calling without mutual TLS.",
        "Make the port STRICT, or add an ALLOW policy that asks for identities.";
    DENY_WIDENED "INT0109" "DenyNotEnforceableAtL4" Warning,
        "A DENY rule has conditions that only an HTTP proxy can decide. The agent leaves them out, so it denies more than was written (ztunnel may deny nothing).",
        "Attach the policy to a waypoint, or write it with L4 conditions.";
    ALLOW_DROPPED "INT0110" "AllowNotEnforceableAtL4" Warning,
        "An ALLOW rule has conditions that only an HTTP proxy can decide. The agent leaves the rule out, so it allows nothing.",
        "Attach the policy to a waypoint, or write it with L4 conditions.";
    CALLER_MISSPELT "INT0111" "CallerProbablyMisspelt" Warning,
        "A rule names a namespace or service account that these manifests do not have, and there is one that is spelt almost alike.",
        "Correct the name.";
    CALLER_UNKNOWN "INT0112" "CallerNotFound" Note,
        "A rule names a namespace or service account that these manifests do not have.",
        "Fine if it lives elsewhere; otherwise correct or delete it.";
    CALLER_NOT_ENROLLED "INT0113" "CallerNotEnrolled" Warning,
        "A rule allows an identity whose workloads are not enrolled: they call in plaintext and cannot prove it.",
        "Enrol the caller (label istio.io/dataplane-mode=ambient on its namespace).";
    PORT_TYPO "INT0201" "PortNameNearlyProtocol" Warning,
        "A Service port's name or appProtocol is almost a protocol's, but not quite: Istio takes it for unknown and guesses, and a waypoint applies no L7 policy to it.",
        "Correct the spelling.";
    TARGET_NAME_DANGLING "INT0202" "TargetPortNameNotFound" Error,
        "A Service port leads to a port name that none of the selected Pods has: connections to it are refused.",
        "Name the container port so, or write the number.";
    TARGET_NAME_PARTIAL "INT0203" "TargetPortNameMissingInSome" Warning,
        "A Service port leads to a port name that some of the selected Pods lack: they never get a connection.",
        "Name the port in all of them.";
    TARGET_UNDECLARED "INT0204" "TargetPortNotDeclared" Note,
        "A Service port leads to a number that no selected Pod declares, though they declare others.",
        "Correct the number; if the application does listen there, declare it.";
    SERVICE_PORT_IN_POLICY "INT0205" "PolicyNamesServicePort" Warning,
        "A policy names the port of a Service, but policies see the port of the workload behind it, so this value never matches.",
        "Write the target port, or its name, which follows the number.";
    POLICY_PORT_NAME "INT0206" "PolicyPortNameNotFound" Warning,
        "A policy names a port that none of its workloads has, so this value never matches.",
        "Correct the name, or name the container port so.";
    POLICY_PORT_UNDECLARED "INT0207" "PolicyPortNotDeclared" Note,
        "A policy names a port number that none of its workloads declares, though they declare others.",
        "Correct the number; fine if the application listens there all the same.";
    SERVICE_EMPTY "INT0208" "ServiceSelectsNothing" Warning,
        "A Service's selector selects no workload, so connections to it are refused.",
        "Compare it with the Pods' labels.";
    SERVICE_NO_SELECTOR "INT0209" "ServiceWithoutSelector" Note,
        "A Service has no selector, and this release reads no EndpointSlices: it has no endpoints here.",
        "Give it a selector; WorkloadEntries can stand for machines.";
    MODE_CONTRADICTION "INT0301" "PolicyContradictsPeerAuthentication" Warning,
        "A PeerAuthentication is for callers in plaintext (DISABLE), and the ALLOW policies of that port all ask for an identity: such callers are refused. Who comes with mutual TLS all the same, as callers of this mesh do, gets through; behind Istio's sidecars nobody does.",
        "Change the mode to PERMISSIVE or STRICT, or allow by address.";
    STRICT_NOT_CAPTURED "INT0302" "StrictPortNotCaptured" Warning,
        "A port is STRICT, and a capture annotation keeps the agent away from it: plaintext reaches the application there.",
        "Take the port out of the annotation, or make its exception visible with portLevelMtls.";
    STRICT_UDP "INT0303" "StrictIgnoresUdp" Warning,
        "A STRICT workload has a UDP port, and no annotation interceptor.dev/udp that refuses what arrives there. Mutual TLS and policies are for TCP: UDP passes untouched.",
        "Refuse it with interceptor.dev/udp: deny, or serve over TCP.";
    STRICT_NOT_ENROLLED "INT0304" "StrictNotEnforced" Warning,
        "STRICT holds for workloads that are not enrolled, so nothing enforces it there.",
        "Enrol them (label istio.io/dataplane-mode=ambient on the namespace).";
    MODE_IGNORED "INT0305" "PeerAuthenticationIgnored" Warning,
        "Two PeerAuthentications have the same scope; the older one counts, this one has no effect.",
        "Delete one of them.";
    STRICT_REFUSES "INT0306" "StrictRefusesNeighbours" Note,
        "Workloads of the same namespace are not enrolled, so they cannot call its STRICT ports.",
        "Enrol them, or make the ports that they call PERMISSIVE.";
    STRICT_WITHOUT_AGENT "INT0307" "StrictUnlessAgentIsDown" Warning,
        "A workload is STRICT, and interceptor.dev/on-agent-down lets plaintext in and out while the agent is down: whoever can stop the agent, or waits until it crashes, goes around mutual TLS and every policy.",
        "Use on-agent-down: refuse (the default), or say with PERMISSIVE that plaintext is acceptable.";
    CAPTURE_CANCELS "INT0401" "CaptureAnnotationsCancelOut" Warning,
        "One capture annotation makes another pointless.",
        "Keep the one that was meant.";
    CAPTURE_NOTHING "INT0402" "NothingCaptured" Warning,
        "Capture annotations leave nothing to capture in one direction: no identity, no policy, no telemetry there.",
        "Remove the annotation, or opt out visibly with istio.io/dataplane-mode=none.";
    TUNNEL_BLOCKED "INT0501" "NetworkPolicyBlocksTunnel" Error,
        "A NetworkPolicy lets traffic to an enrolled workload through at the application's port, but not at 15008, where mutual TLS between nodes arrives: calls from other workloads of the mesh time out.",
        "Allow TCP 15008 wherever the application's port is allowed.";
    EXTERNAL_OVERLAP "INT0601" "ServiceEntriesOverlap" Warning,
        "Two ServiceEntries claim the same host, or the same address and port: which of them counts depends on their age.",
        "Join them, or make hosts and addresses distinct.";
}

/// `docs/analyze.md`.
pub fn documentation() -> String {
    let mut text = String::from(
        "# What `interceptor analyze` finds\n\n\
         <!-- Made from interceptor/src/analyze/catalogue.rs: \
         `INTERCEPTOR_GEN=1 cargo test -p interceptor docs_show_every_finding` -->\n\n\
         Codes that begin with IST are Istio's, with Istio's names, where the finding is the same; those \
         that begin with INT are ours. Errors make the command exit 1, and so do warnings or notes with \
         `--fail-on warning` or `--fail-on note`. `--suppress CODE` or `--suppress 'CODE=Kind namespace/name'` \
         (a `*` stands for any text) hides what is as intended.\n\n\
         | code | name | severity | what it means | what to do |\n|---|---|---|---|---|\n",
    );
    for check in CATALOGUE {
        let Check {
            code,
            name,
            severity,
            meaning,
            remedy,
        } = check;
        let severity = severity.label();
        text.extend(["| ", code, " | ", name, " | ", severity]);
        text.extend([" | ", meaning, " | ", remedy, " |\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CATALOGUE, documentation};

    #[test]
    fn docs_show_every_finding() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/analyze.md");
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's switch, not configuration"
        )]
        if std::env::var("INTERCEPTOR_GEN").is_ok() {
            std::fs::write(&path, documentation()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(&path).unwrap_or_default(),
            documentation(),
            "run: INTERCEPTOR_GEN=1 cargo test -p interceptor docs_show_every_finding"
        );
    }

    #[test]
    fn codes_and_names_are_unique_and_in_order() {
        let codes: Vec<_> = CATALOGUE.iter().map(|check| check.code).collect();
        let names: BTreeSet<_> = CATALOGUE.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), codes.len());
        let ours = codes
            .iter()
            .position(|code| code.starts_with("INT"))
            .unwrap();
        assert!(codes[..ours].is_sorted() && codes[ours..].is_sorted());
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
    }
}
