//! The rules for dependencies that cargo does not check: none that is not used, and none that
//! `deny.toml` bans, by whatever way it came in.
//!
//! `cargo deny check` knows more (licences, advisories); it needs a program of its own and a
//! network, so it is not part of `lint`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::files::{rust_files, shown};
use crate::project::Project;
use crate::step::capture;

const MEMBERS: [&str; 6] = [
    "interceptor",
    "interceptor/policy",
    "interceptor-common",
    "interceptor-ebpf",
    "tests",
    "xtask",
];

/// Fails with every dependency that is unused or banned.
pub(crate) fn dependencies(project: &Project) -> Result<()> {
    let root = project.root();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for member in MEMBERS {
        let folder = root.join(member);
        let manifest = folder.join("Cargo.toml");
        let words = words_of(&folder)?;
        for name in declared(&read(&manifest)?, "dependencies") {
            if !words.contains(&name.replace('-', "_")) {
                wrong.push(format!("{}: {name} is not used", shown(project, &manifest)));
            }
            used.insert(name);
        }
    }
    for name in declared(&read(&root.join("Cargo.toml"))?, "workspace.dependencies") {
        if !used.contains(&name) {
            wrong.push(format!("Cargo.toml: no member uses {name}"));
        }
    }
    let banned = banned(&read(&root.join("deny.toml"))?);
    for name in compiled(project)? {
        if let Some((_, reason)) = banned.iter().find(|(banned, _)| *banned == name) {
            wrong.push(format!(
                "{name} is banned ({reason}); see `cargo tree -i {name}`"
            ));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("dependencies that should go:\n{}", wrong.join("\n"))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

/// Every word in the crate's code, leaving out the crates nested in its folder.
fn words_of(folder: &Path) -> Result<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    for file in rust_files(folder)? {
        let nested = file
            .ancestors()
            .skip(1)
            .take_while(|above| *above != folder)
            .any(|above| above.join("Cargo.toml").exists());
        if !nested {
            let text = read(&file)?;
            let found = text.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.extend(found.map(str::to_owned));
        }
    }
    Ok(words)
}

/// The names in the sections of a manifest whose title is `kind` or ends with `-kind` or `.kind`.
fn declared(manifest: &str, kind: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(title) = line.strip_prefix('[') {
            let title = title.trim_end_matches(']');
            inside = title
                .strip_suffix(kind)
                .is_some_and(|before| before.is_empty() || before.ends_with(['-', '.']))
                && (kind.starts_with("workspace") || !title.starts_with("workspace"));
            continue;
        }
        if let Some((name, _)) = line.split_once(['=', '.']).filter(|_| inside)
            && !name.starts_with(['#', ' '])
        {
            names.push(name.trim().to_owned());
        }
    }
    names
}

/// The banned crates with the reason for each.
fn banned(deny: &str) -> Vec<(String, String)> {
    let quoted = |line: &str, key: &str| {
        let (_, value) = line.split_once(&format!("{key} = \""))?;
        Some(value.split_once('"')?.0.to_owned())
    };
    deny.lines()
        .filter_map(|line| Some((quoted(line, "{ crate")?, quoted(line, "reason")?)))
        .collect()
}

/// Every crate that is really compiled: the lock file also names those that no feature asks for.
fn compiled(project: &Project) -> Result<BTreeSet<String>> {
    let tree = [
        "tree",
        "--locked",
        "--workspace",
        "--prefix=none",
        "--format={p}",
    ];
    let tree = capture(project.cargo().args(tree))?;
    let name = |line: &str| Some(line.split_whitespace().next()?.to_owned());
    Ok(tree.lines().filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "\
[package]
name = \"thing\"

[dependencies]
anyhow = { workspace = true }
# serde = \"1\"
tokio-util.workspace = true

[target.'cfg(unix)'.dependencies]
nix = \"1\"

[dev-dependencies]
rstest = { workspace = true }

[lints]
workspace = true
";

    #[test]
    fn every_kind_of_dependency_is_seen() {
        assert_eq!(
            declared(MANIFEST, "dependencies"),
            ["anyhow", "tokio-util", "nix", "rstest"]
        );
    }

    #[test]
    fn shared_versions_are_not_dependencies_of_the_root() {
        let manifest = "[workspace.dependencies]\nanyhow = \"1\"\n\n[profile.dev]\ndebug = 1\n";
        assert_eq!(declared(manifest, "workspace.dependencies"), ["anyhow"]);
        assert_eq!(declared(manifest, "dependencies"), [""; 0]);
    }

    #[test]
    fn a_ban_carries_its_reason() {
        let deny = "deny = [\n  { crate = \"ring\", reason = \"one TLS provider\" },\n]\n";
        assert_eq!(
            banned(deny),
            [("ring".to_owned(), "one TLS provider".to_owned())]
        );
    }
}
