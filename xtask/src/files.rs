//! The rules that every source file keeps: a header that says what it is for, and a length that
//! can be read in one sitting.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::project::Project;

/// The wall; 300 is what is wanted.
const MOST_LINES: usize = 500;

/// The folders that hold our code.
const CRATES: [&str; 5] = [
    "interceptor",
    "interceptor-common",
    "interceptor-ebpf",
    "tests",
    "xtask",
];

/// Fails with every file that breaks a rule.
pub(crate) fn files(project: &Project) -> Result<()> {
    let mut wrong = Vec::new();
    for name in CRATES {
        for file in rust_files(&project.root().join(name))? {
            let text = fs::read_to_string(&file)?;
            wrong.extend(complaint(&text).map(|what| format!("{}: {what}", shown(project, &file))));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("files that break a rule:\n{}", wrong.join("\n"))
}

/// Every Rust file below `folder`, in order.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "target" {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The file's path as one would type it in the checkout.
pub(crate) fn shown(project: &Project, file: &Path) -> String {
    let inside = file.strip_prefix(project.root()).unwrap_or(file);
    inside.display().to_string()
}

fn complaint(text: &str) -> Option<String> {
    let lines = text.lines().count();
    if lines > MOST_LINES {
        return Some(format!("{lines} lines, at most {MOST_LINES}: split it"));
    }
    let header = text.lines().find(|line| !line.trim().is_empty());
    let headed = header.is_some_and(|line| line.starts_with("//!"));
    (!headed).then(|| "no `//!` header that says what it is for".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_with_its_purpose() {
        assert_eq!(complaint("//! What it is for.\nfn f() {}\n"), None);
        let complaint = complaint("use std::fs;\n//! Too late.\n").unwrap();
        assert!(complaint.starts_with("no `//!` header"));
    }

    #[test]
    fn a_file_beyond_the_wall_is_refused() {
        let long = "//! Long.\n".repeat(501);
        let complaint = complaint(&long).unwrap();
        assert_eq!(complaint, "501 lines, at most 500: split it");
    }
}
