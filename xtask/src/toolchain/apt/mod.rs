//! A Debian package of an exact version, downloaded without touching the machine's apt.
//!
//! The machine's own mirror is used, because it is the one that surely can be reached from here:
//! its sources are read, and a temporary list for another suite is made from them. Lists, cache and
//! status lie in a folder of ours; nothing is installed. The machine's apt settings (proxy,
//! credentials) apply, except for hooks, which would act on the machine.
//!
//! Not here: unpacking.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::step::{capture, say, within};

/// The suite that keeps several versions of the Rust packages side by side.
const SUITE: &str = "trixie-backports";

/// A list of a megabyte and a package of 50.
const LIMIT: Duration = Duration::from_mins(3);

/// One mirror of the Debian archive, as the machine's sources name it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    uri: String,
    signed_by: Option<String>,
}

/// Downloads `package` in `version`, whatever its Debian revision, into `folder`.
pub(super) fn download(package: &str, version: &str, folder: &Path) -> Result<PathBuf> {
    let mirrors = configured(Path::new("/etc/apt"))?;
    ensure!(
        !mirrors.is_empty(),
        "apt is not configured with a mirror of Debian"
    );
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    for state in ["state/lists/partial", "cache/archives/partial", "parts"] {
        fs::create_dir_all(folder.join(state))?;
    }
    fs::write(folder.join("debian.sources"), stanzas(&mirrors))?;
    fs::write(folder.join("status"), "")?;
    fs::write(
        folder.join("apt.conf"),
        settings(folder, Path::new("/etc/apt"))?,
    )?;

    let apt = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("APT_CONFIG", folder.join("apt.conf"))
            .current_dir(folder);
        command
    };
    say(format_args!(
        "{package}: looking for {version} in Debian {SUITE}"
    ));
    // With several mirrors, one that fails does not matter: what counts is what was found.
    let updated = within(LIMIT, &mut apt("apt-get", &["update"]));
    let known = capture(&mut apt("apt-cache", &["madison", package]))?;
    let Some(full) = exactly(&known, version) else {
        updated?;
        bail!("{SUITE} has no {package} {version}");
    };
    within(
        LIMIT,
        &mut apt("apt-get", &["download", &format!("{package}={full}")]),
    )?;
    downloaded(folder)?.with_context(|| format!("apt-get downloaded no package {package}"))
}

/// The full version, with its Debian revision, of the upstream `version`.
fn exactly<'a>(madison: &'a str, version: &str) -> Option<&'a str> {
    madison
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim()))
        .find(|full| {
            full.strip_prefix(version)
                .is_some_and(|revision| revision.starts_with(['+', '-', '~']))
        })
}

fn downloaded(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn stanzas(mirrors: &[Mirror]) -> String {
    let stanza = |mirror: &Mirror| {
        let key = mirror.signed_by.as_ref();
        let key = key.map_or_else(String::new, |key| format!("Signed-By: {key}\n"));
        let uri = &mirror.uri;
        format!("Types: deb\nURIs: {uri}\nSuites: {SUITE}\nComponents: main\n{key}")
    };
    mirrors.iter().map(stanza).collect::<Vec<_>>().join("\n")
}

/// Every place that apt keeps something in, moved into `folder`.
fn settings(folder: &Path, etc: &Path) -> Result<String> {
    without_hooks(&etc.join("apt.conf.d"), &folder.join("parts"))?;
    let at = |name: &str| folder.join(name).display().to_string();
    let mut text = String::new();
    for (key, value) in [
        ("Dir::Etc::parts", at("parts")),
        ("Dir::Etc::sourcelist", at("debian.sources")),
        ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        ("Dir::Etc::preferences", "/dev/null".to_owned()),
        ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
        ("Dir::State", at("state")),
        ("Dir::State::status", at("status")),
        ("Dir::Cache", at("cache")),
        ("Acquire::Languages", "none".to_owned()),
        ("Acquire::Retries", "2".to_owned()),
        ("Acquire::http::Timeout", "20".to_owned()),
        ("Acquire::https::Timeout", "20".to_owned()),
        // The folder is the user's own, which apt's download user may not enter.
        ("APT::Sandbox::User", "root".to_owned()),
    ] {
        writeln!(text, "{key} \"{value}\";")?;
    }
    Ok(text)
}

/// Links the machine's settings into `parts`, without the files that run programs.
fn without_hooks(machine: &Path, parts: &Path) -> Result<()> {
    if !machine.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(machine)? {
        let entry = entry?;
        let text = fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if !text.contains("-Invoke") && !text.contains("Pre-Install-Pkgs") {
            symlink(entry.path(), parts.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The mirrors of the Debian archive that the files below `etc` name, without repetition.
fn configured(etc: &Path) -> Result<Vec<Mirror>> {
    let mut files = vec![etc.join("sources.list")];
    let parts = etc.join("sources.list.d");
    if parts.exists() {
        for entry in fs::read_dir(parts)? {
            files.push(entry?.path());
        }
    }
    files.sort();
    let mut mirrors = Vec::new();
    for file in files {
        let parse = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line_style,
            Some("sources") => deb822_style,
            _ => continue,
        };
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        for mirror in parse(&text) {
            if !mirrors.contains(&mirror) {
                mirrors.push(mirror);
            }
        }
    }
    Ok(mirrors)
}

/// True for the archive itself: `security` holds other suites, and other vendors' repositories for
/// Debian rarely have a component `main`; where one has, it only fails to have our suite.
fn is_debian(uri: &str, components: &[&str]) -> bool {
    let uri = uri.to_ascii_lowercase();
    uri.contains("debian") && !uri.contains("security") && components.contains(&"main")
}

/// `deb [signed-by=KEY] URI SUITE COMPONENT...`
fn one_line_style(text: &str) -> Vec<Mirror> {
    text.lines()
        .filter_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim();
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let mut words = rest.split_whitespace();
            let (uri, _suite) = (words.next()?, words.next()?);
            let components: Vec<&str> = words.collect();
            is_debian(uri, &components).then(|| Mirror {
                uri: uri.to_owned(),
                signed_by: options
                    .split_whitespace()
                    .find_map(|option| option.strip_prefix("signed-by="))
                    .map(str::to_owned),
            })
        })
        .collect()
}

/// Paragraphs of `Field: value`, where a line that starts with a space continues the value.
fn deb822_style(text: &str) -> Vec<Mirror> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text = lines.map(str::trim_end).collect::<Vec<_>>().join("\n");
    text.split("\n\n").flat_map(paragraph).collect()
}

fn paragraph(text: &str) -> Vec<Mirror> {
    let field = |name: &str| {
        let mut lines = text.lines().skip_while(|line| value(line, name).is_none());
        let mut whole = value(lines.next()?, name)?.trim().to_owned();
        for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
            whole += "\n";
            whole += line;
        }
        Some(whole)
    };
    let words = |name: &str| field(name).unwrap_or_default();
    let (types, components) = (words("Types"), words("Components"));
    let components: Vec<&str> = components.split_whitespace().collect();
    let off = words("Enabled").eq_ignore_ascii_case("no");
    if off || !types.split_whitespace().any(|kind| kind == "deb") {
        return Vec::new();
    }
    words("URIs")
        .split_whitespace()
        .filter(|uri| is_debian(uri, &components))
        .map(|uri| Mirror {
            uri: uri.to_owned(),
            signed_by: field("Signed-By"),
        })
        .collect()
}

/// The value of `line` if it is the field `name`; field names have no case.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (field, value) = line.split_once(':')?;
    field.eq_ignore_ascii_case(name).then_some(value)
}

#[cfg(test)]
mod tests;
