//! `cargo xtask layers`: imports in the agent go one way.
//!
//! A module may name only modules of a lower layer, so that "which way does data flow?" has one
//! answer and every layer can be read, and tested, without the ones above it. Modules of one layer
//! never know each other. Tests are no exception: a test that needs the layer above tests that.
//!
//! # Why tokens and not the syntax tree
//!
//! A path inside a macro call is an import like any other, and only the tokens show it. What counts
//! is `crate::module`, and `super::module` where `super` reaches the crate's root.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::files::{rust_files, shown};
use crate::project::Project;
use crate::step::say;

/// The modules of the agent, from the bottom up (the module map is in `interceptor/src/lib.rs`).
const LAYERS: [&[&str]; 8] = [
    &["net", "drain", "lanes", "yaml", "error", "reason"],
    &["workload", "identity"],
    &["capture", "decide", "transport", "analyze"],
    &["telemetry"],
    &["connection", "explain"],
    &["config", "admin"],
    &["app"],
    &["cli"],
];

/// Fails with every import that goes up or sideways.
pub(crate) fn layers(project: &Project) -> Result<()> {
    let source = project.root().join("interceptor/src");
    let mut wrong = Vec::new();
    for file in rust_files(&source)? {
        let text = fs::read_to_string(&file)?;
        let place = Place::of(file.strip_prefix(&source)?);
        let found = place
            .violations(&text)
            .with_context(|| format!("could not read {} as Rust", file.display()))?;
        for violation in found {
            wrong.push(format!("{}:{violation}", shown(project, &file)));
        }
    }
    if wrong.is_empty() {
        say("layers: every import goes down");
        return Ok(());
    }
    bail!("imports that do not go down:\n{}", wrong.join("\n"))
}

/// Where a file is in the tree of modules.
struct Place {
    /// The module below the root; none for the root itself, which may name everything.
    module: Option<String>,
    /// How many `super` lead from the file to the root.
    depth: usize,
}

impl Place {
    fn of(file: &Path) -> Self {
        let mut names: Vec<String> = file
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        if names
            .last()
            .is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main"))
        {
            names.pop();
        }
        Self {
            depth: names.len(),
            module: names.into_iter().next(),
        }
    }

    fn violations(&self, text: &str) -> Result<Vec<String>> {
        let Some(own) = &self.module else {
            return Ok(Vec::new());
        };
        let Some(layer) = layer_of(own) else {
            return Ok(vec![format!(
                "1: the module `{own}` has no layer: give it one in xtask/src/layers.rs"
            )]);
        };
        let tokens: TokenStream = text.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
        let mut imports = BTreeSet::new();
        collect(tokens, self.depth, &mut imports);
        let complain = |(line, name): (usize, String)| {
            if name == *own {
                return None;
            }
            match layer_of(&name) {
                Some(other) if other < layer => None,
                Some(other) => Some(format!(
                    "{line}: `{own}` (layer {layer}) must not know `{name}` (layer {other})"
                )),
                None => Some(format!("{line}: `crate::{name}` is in no layer")),
            }
        };
        Ok(imports.into_iter().filter_map(complain).collect())
    }
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Collects every name that follows a path to the crate's root, with its line.
fn collect(tokens: TokenStream, depth: usize, imports: &mut BTreeSet<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token {
            TokenTree::Ident(word) if word == "crate" => {
                if let Some(after) = past_colons(rest) {
                    names(after, imports);
                }
            }
            TokenTree::Ident(word) if word == "super" => {
                let (supers, after) = chain(rest);
                if supers == depth {
                    names(after, imports);
                }
                rest = after;
            }
            TokenTree::Ident(word) if word == "mod" => {
                if let [TokenTree::Ident(_), TokenTree::Group(body), after @ ..] = rest {
                    collect(body.stream(), depth + 1, imports);
                    rest = after;
                }
            }
            TokenTree::Group(group) => collect(group.stream(), depth, imports),
            _ => {}
        }
    }
}

/// Skips `::super` as often as it comes; returns how many there were with the first, and what
/// follows the last `::`.
fn chain(mut rest: &[TokenTree]) -> (usize, &[TokenTree]) {
    let mut supers = 1;
    while let Some(after) = past_colons(rest) {
        match after {
            [TokenTree::Ident(word), next @ ..] if word == "super" => {
                supers += 1;
                rest = next;
            }
            _ => return (supers, after),
        }
    }
    (supers, rest)
}

fn past_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [TokenTree::Punct(one), TokenTree::Punct(two), rest @ ..]
            if one.as_char() == ':' && two.as_char() == ':' =>
        {
            Some(rest)
        }
        _ => None,
    }
}

/// The name, or the names in braces, at the start of `tokens`.
fn names(tokens: &[TokenTree], imports: &mut BTreeSet<(usize, String)>) {
    match tokens {
        [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let comma =
                |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
            for part in inner.split(comma) {
                names(part, imports);
            }
        }
        [TokenTree::Ident(name), ..] => {
            imports.insert((name.span().start().line, name.to_string()));
        }
        [TokenTree::Punct(star), ..] if star.as_char() == '*' => {
            imports.insert((star.span().start().line, "*".to_owned()));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(file: &str, text: &str) -> Vec<String> {
        Place::of(Path::new(file)).violations(text).unwrap()
    }

    #[test]
    fn imports_that_go_down_are_fine() {
        let text = "use crate::{net::dial, workload::{Mesh, Workload}};\nuse crate::drain::Tasks;";
        assert_eq!(violations("capture/loader.rs", text), [""; 0]);
    }

    #[test]
    fn a_module_may_name_itself() {
        let text = "use crate::capture::maps; use super::super::capture::enrol; use super::maps;";
        assert_eq!(violations("capture/loader.rs", text), [""; 0]);
    }

    #[test]
    fn an_import_that_goes_up_is_named_with_its_line() {
        let text = "//! Header, which may mention crate::app.\n\nuse crate::app::App;\n";
        assert_eq!(
            violations("workload/mod.rs", text),
            ["3: `workload` (layer 1) must not know `app` (layer 6)"]
        );
    }

    #[test]
    fn modules_of_one_layer_do_not_know_each_other() {
        let text = "use crate::{drain, transport::{Dial, hbone}, decide};";
        assert_eq!(
            violations("capture/mod.rs", text),
            [
                "1: `capture` (layer 2) must not know `decide` (layer 2)",
                "1: `capture` (layer 2) must not know `transport` (layer 2)",
            ]
        );
    }

    #[test]
    fn paths_in_code_macros_and_inner_modules_count_as_imports() {
        let text = "fn f() { g!(x, crate::cli::run()); }\n\
                    mod tests { use super::super::super::app; use super::super::maps; }";
        assert_eq!(
            violations("capture/loader.rs", text),
            [
                "1: `capture` (layer 2) must not know `cli` (layer 7)",
                "2: `capture` (layer 2) must not know `app` (layer 6)",
            ]
        );
    }

    #[test]
    fn nothing_may_name_the_whole_crate_or_what_has_no_layer() {
        assert_eq!(
            violations("app.rs", "use crate::*; use crate::utils::x;"),
            [
                "1: `crate::*` is in no layer",
                "1: `crate::utils` is in no layer"
            ]
        );
        assert_eq!(
            violations("utils/mod.rs", ""),
            ["1: the module `utils` has no layer: give it one in xtask/src/layers.rs"]
        );
    }

    #[test]
    fn the_root_wires_everything() {
        assert_eq!(violations("lib.rs", "pub use crate::cli::Cli;"), [""; 0]);
        assert_eq!(violations("main.rs", "use crate::cli;"), [""; 0]);
    }
}
