//! `interceptor validate`: what is wrong in these manifests, before they are applied?

use std::path::PathBuf;

use serde::Serialize;

use super::output::{Printer, Report, Style, Tone};
use super::{Exit, Failure, human, settings};
use crate::config::Config;
use crate::telemetry::status::{Finding, Severity};
use crate::workload::Mesh;
use crate::workload::source::directory::load_mesh;

/// What is wrong in these manifests, before they are applied?
///
/// Reads a folder of manifests (or one file) as the agent would, without an agent and without
/// privileges, and shows all mistakes together with file, line and key. A folder with errors would
/// not take effect: the agent would keep its last good configuration.
///
/// With `--config` the agent's own configuration file is judged, too, and shown with every default
/// filled in; without `-f` its folder of manifests is read.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 valid (there may be warnings), 2 the agent would refuse it.

Examples:
  interceptor validate -f deploy/examples
  interceptor validate --config agent.yaml      the agent's configuration, and its manifests
  interceptor validate -f . -o json | jq -r '.mistakes[] | \"\\(.place) \\(.message)\"'")]
pub(super) struct Args {
    /// A folder of manifests, or one file.
    #[arg(short, long, value_name = "PATH", required_unless_present = "config")]
    file: Option<PathBuf>,

    /// The agent's configuration file, which says what the mesh's trust domain and root namespace
    /// are. The defaults without it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The node's name, instead of the file's.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let node = args.node.as_deref();
    let (config, effective) = match &args.config {
        None => (Config::for_node(node.unwrap_or("none")), None),
        Some(path) => {
            let config =
                Config::load(path, node).map_err(|mistakes| settings::failure(&mistakes))?;
            let effective = config.to_json();
            (config, Some(effective))
        }
    };
    let manifests = args.file.as_ref().unwrap_or(&config.manifests);
    let mut validation = Validation::of(load_mesh(manifests, &config.mesh));
    if let Some(effective) = effective {
        validation.yaml = config.to_yaml();
        validation.config = Some(effective);
    }
    printer.report(&validation)
}

#[derive(Debug, Serialize)]
struct Validation {
    valid: bool,
    workloads: usize,
    services: usize,
    mistakes: Vec<Finding>,
    /// The agent's configuration in force, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<serde_json::Value>,
    /// The same, for people.
    #[serde(skip)]
    yaml: String,
}

impl Validation {
    fn of(loaded: Result<(Mesh, Vec<crate::yaml::Mistake>), Vec<crate::yaml::Mistake>>) -> Self {
        let (mesh, mistakes) = match loaded {
            Ok((mesh, mistakes)) => (Some(mesh), mistakes),
            Err(mistakes) => (None, mistakes),
        };
        Self {
            valid: mesh.is_some(),
            workloads: mesh.as_ref().map_or(0, |mesh| mesh.workloads().count()),
            services: mesh.as_ref().map_or(0, |mesh| mesh.services().count()),
            mistakes: mistakes.iter().map(Finding::from).collect(),
            config: None,
            yaml: String::new(),
        }
    }

    fn count(&self, severity: Severity) -> usize {
        let mistakes = self.mistakes.iter();
        mistakes.filter(|m| m.severity == severity).count()
    }
}

impl Report for Validation {
    fn text(&self, style: Style) -> String {
        let warnings = human::count(self.count(Severity::Warning), "warning");
        let mut text = if self.valid {
            let line = format!(
                "valid: {} and {}, {warnings}",
                human::count(self.workloads, "workload"),
                human::count(self.services, "service"),
            );
            style.paint(Tone::Good, &line)
        } else {
            let errors = human::count(self.count(Severity::Error), "error");
            style.paint(Tone::Bad, &format!("NOT valid: {errors}, {warnings}"))
        };
        text.push('\n');
        for mistake in &self.mistakes {
            let (label, tone) = match mistake.severity {
                Severity::Error => ("error", Tone::Bad),
                Severity::Warning => ("warning", Tone::Warning),
                Severity::Note => ("note", Tone::Faint),
            };
            let Finding { place, message, .. } = mistake;
            let label = style.paint(tone, label);
            text.extend(["\n", place, ": ", &label, ": ", message]);
        }
        if !self.yaml.is_empty() {
            text.extend(["\n\n# The agent's configuration in force\n", &self.yaml]);
        }
        text
    }

    fn exit(&self) -> Exit {
        if self.valid { Exit::Yes } else { Exit::Unclear }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::MeshSettings;

    fn validate(text: &str) -> Validation {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        Validation::of(load_mesh(folder.path(), &MeshSettings::for_node("none")))
    }

    #[test]
    fn all_mistakes_are_shown_and_the_answer_is_2() {
        let policy = |name: &str| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{name: {name}, namespace: demo}}\nspec: {{mtls: {{mode: STRICTT}}}}\n"
            )
        };
        let both = validate(&format!("{}---\n{}", policy("a"), policy("b")));
        assert_eq!(both.exit(), Exit::Unclear);
        let text = both.text(Style::Plain);
        assert!(
            text.starts_with("NOT valid: 2 errors, no warnings\n"),
            "{text}"
        );
        assert!(
            text.contains("a.yaml:4:") && text.contains("a.yaml:9:"),
            "{text}"
        );
    }

    #[test]
    fn a_valid_folder_is_yes() {
        let none = validate("apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n");
        assert_eq!(none.exit(), Exit::Yes);
        assert!(
            none.text(Style::Plain)
                .starts_with("valid: no workloads and no services")
        );
    }

    #[test]
    fn who_gives_deployments_learns_that_pods_are_read() {
        let made = |name: &str| {
            format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n")
        };
        let text = validate(&format!("{}---\n{}", made("a"), made("b"))).text(Style::Plain);
        let note = "note: apps/v1 Deployment (and 1 more) is not read here, only the Pods that it \
                    makes are; `interceptor analyze` judges both";
        assert!(text.contains(note), "{text}");
    }
}
