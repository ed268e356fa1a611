//! The rules for dependencies that cargo does not check: none that is not used, and none that
//! `deny.toml` bans, by whatever way it came in.
//!
//! `cargo deny check` knows more (licences, advisories); it needs a program of its own and a
//! network, so it is not part of `lint`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::files::rust_files;
use crate::project::Project;
use crate::step::capture;

/// Every package with its folder.
const MEMBERS: [(&str, &str); 6] = [
    ("interceptor", "interceptor"),
    ("interceptor-policy", "interceptor/policy"),
    ("interceptor-common", "interceptor-common"),
    ("interceptor-ebpf", "interceptor-ebpf"),
    ("interceptor-tests", "tests"),
    ("xtask", "xtask"),
];

/// Fails with every dependency that is unused or banned.
pub(crate) fn dependencies(project: &Project) -> Result<()> {
    let root = project.root();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (package, folder) in MEMBERS {
        let words = words_of(&root.join(folder))?;
        for (name, library) in direct(project, package)? {
            if !words.contains(&library) {
                wrong.push(format!("{folder}/Cargo.toml: {name} is not used"));
            }
            used.insert(name);
        }
    }
    for name in shared(&read(&root.join("Cargo.toml"))?) {
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

/// The package's own dependencies, each with the name that code calls it by.
fn direct(project: &Project, package: &str) -> Result<Vec<(String, String)>> {
    let options = ["--locked", "--all-features", "--depth=1", "--prefix=none"];
    let tree = capture(
        project
            .cargo()
            .args(["tree", "--package", package, "--edges=normal,build,dev"])
            .args(options)
            .arg("--format={p}|{lib}"),
    )?;
    Ok(tree.lines().skip(1).filter_map(named).collect())
}

/// Reads `name v1.2.3|library (*)`; titles of sections have no library.
fn named(line: &str) -> Option<(String, String)> {
    let (package, library) = line.split_once('|')?;
    let first = |text: &str| text.split_whitespace().next().map(str::to_owned);
    Some((first(package)?, first(library)?))
}

/// The names that the workspace's manifest gives a version to.
fn shared(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()))
        .collect()
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

    #[test]
    fn a_dependency_is_known_by_the_name_that_code_uses() {
        let pair = |name: &str, library: &str| Some((name.to_owned(), library.to_owned()));
        assert_eq!(
            named("rustls-webpki v0.103.16|webpki"),
            pair("rustls-webpki", "webpki")
        );
        assert_eq!(named("tokio v1.54.1|tokio (*)"), pair("tokio", "tokio"));
        assert_eq!(named("[dev-dependencies]"), None);
    }

    #[test]
    fn shared_versions_end_where_the_next_section_begins() {
        let manifest = "\
[workspace]
members = []

[workspace.dependencies]
anyhow = \"1\"
# serde = \"1\"
aya = { version = \"1\", features = [] }

[profile.dev]
debug = 1
";
        assert_eq!(shared(manifest), ["anyhow", "aya"]);
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
