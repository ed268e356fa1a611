//! Documents that people read first: what they link to exists, and they stay short.

use std::path::{Path, PathBuf};

use rstest::rstest;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Targets of Markdown links, those to other sites left out.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .collect()
}

#[rstest]
#[case::readme("README.md", 150)]
#[case::architecture("ARCHITECTURE.md", 200)]
#[case::contributing("CONTRIBUTING.md", 150)]
#[case::changelog("CHANGELOG.md", 500)]
#[case::kubernetes("deploy/kubernetes/README.md", 100)]
fn a_document_is_short_and_its_links_lead_somewhere(#[case] path: &str, #[case] lines: usize) {
    let path = repository().join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().count() <= lines);
    let folder = path.parent().unwrap();
    let dead: Vec<&str> = links(&text)
        .into_iter()
        .filter(|target| !folder.join(target).exists())
        .collect();
    assert_eq!(dead, Vec::<&str>::new());
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
