//! Documents that people read: what they link to exists, what they show is so, and those that are read
//! first stay short.

use std::path::{Path, PathBuf};

use interceptor::reason::Label;
use rstest::rstest;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The pages for people, from the repository's root: those of `docs/` and the ones beside the code.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = ["README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"]
        .iter()
        .map(|name| repository().join(name).with_extension("md"))
        .collect();
    pages.push(repository().join("deploy/kubernetes/README.md"));
    for folder in ["docs", "docs/bench", "docs/decisions"] {
        let entries = std::fs::read_dir(repository().join(folder));
        let entries = entries.into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|it| it == "md")));
    }
    pages
}

/// Targets of Markdown links, those to other sites left out.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://"))
        .collect()
}

/// What links may name of a page: its headings as GitHub writes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let headings = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    headings
        .map(|heading| heading.chars().filter(kept).collect::<String>())
        .map(|heading| heading.replace(' ', "-"))
        .collect()
}

/// Whether a link of `page` leads to something.
fn leads_somewhere(page: &Path, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() {
        page.to_owned()
    } else {
        page.with_file_name(path)
    };
    if anchor.is_empty() {
        return file.exists();
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    anchors(&text).iter().any(|known| known == anchor)
}

#[test]
fn every_link_leads_somewhere() {
    let mut dead = Vec::new();
    assert!(pages().len() > 20, "{:?}", pages());
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let wrong = links(&text)
            .into_iter()
            .filter(|it| !leads_somewhere(&page, it));
        dead.extend(wrong.map(|target| format!("{}: {target}", page.display())));
    }
    assert_eq!(dead, Vec::<String>::new());
}

#[rstest]
#[case::readme("README.md", 150)]
#[case::architecture("ARCHITECTURE.md", 200)]
#[case::contributing("CONTRIBUTING.md", 150)]
#[case::changelog("CHANGELOG.md", 500)]
#[case::kubernetes("deploy/kubernetes/README.md", 100)]
fn a_document_is_short(#[case] path: &str, #[case] lines: usize) {
    let text = std::fs::read_to_string(repository().join(path)).unwrap();
    assert!(text.lines().count() <= lines);
}

#[test]
fn reasons_that_are_shown_exist() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let shown = text.split("reason=\"").skip(1);
        for reason in shown.filter_map(|rest| rest.split('"').next()) {
            let is_known = Label::ALL.iter().any(|label| *label == reason);
            assert!(is_known, "{}: {reason}", page.display());
        }
    }
}

/// Whether `interceptor/tests/capture` has a test of this path, such as `direct::doors::name`, or
/// `tests/e2e` has one if that is what the path begins with.
fn is_a_test(path: &str) -> bool {
    let (folder, path) = path
        .strip_prefix("e2e::")
        .map_or(("interceptor/tests/capture", path), |path| {
            ("tests/e2e", path)
        });
    let Some((module, name)) = path.rsplit_once("::") else {
        return false;
    };
    let file = format!("{folder}/{}.rs", module.replace("::", "/"));
    let text = std::fs::read_to_string(repository().join(file)).unwrap_or_default();
    text.contains(&format!("fn {name}("))
}

#[test]
fn every_threat_has_a_test_that_exists() {
    let text = std::fs::read_to_string(repository().join("docs/threats.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.ends_with("| test |"));
    let tests: Vec<&str> = rows
        .map(|row| row.trim_end_matches(" |").rsplit("| ").next().unwrap())
        .map(|cell| cell.trim_matches('`'))
        .collect();
    assert!(tests.len() > 40);
    let missing: Vec<_> = tests.into_iter().filter(|it| !is_a_test(it)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn the_licence_is_apache() {
    let text = std::fs::read_to_string(repository().join("LICENSE")).unwrap();
    assert!(text.contains("Apache License") && text.contains("Version 2.0, January 2004"));
    assert!(text.contains("END OF TERMS AND CONDITIONS"));
}
