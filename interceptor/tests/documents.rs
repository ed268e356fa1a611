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

#[test]
fn the_licence_is_apache() {
    let text = std::fs::read_to_string(repository().join("LICENSE")).unwrap();
    assert!(text.contains("Apache License") && text.contains("Version 2.0, January 2004"));
    assert!(text.contains("END OF TERMS AND CONDITIONS"));
}
