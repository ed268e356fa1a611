//! The page about a run, `docs/bench/README.md`: the part between its markers is written anew by
//! every run with `--plots`, so that what the page says is what was measured.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::made::Made;
use super::plots;
use super::report::Report;
use super::table::{number, times};
use super::verdict::HEADINGS;

/// What is written anew is between these.
const MARKERS: [&str; 2] = [
    "<!-- from here on written by `cargo xtask bench -- --plots` -->",
    "<!-- end of what is written -->",
];

/// Draws the plots of a report and writes its page.
///
/// # Errors
///
/// Fails if a file cannot be written, or if the page has lost its markers.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    let plots = plots::write(report, folder)?;
    let file = folder.join("README.md");
    let page = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let page = between(&page, MARKERS, &contents(report, &plots))
        .with_context(|| format!("{} has lost its markers", file.display()))?;
    fs::write(&file, page).with_context(|| format!("write {}", file.display()))
}

/// A page with another text between two markers.
pub(super) fn between(page: &str, [begin, end]: [&str; 2], text: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{text}\n{end}{after}"))
}

fn contents(report: &Report, plots: &[&str]) -> String {
    let mut text = String::new();
    if let Some(warning) = report.made.as_ref().and_then(Made::warning) {
        line(&mut text, &format!("{warning}\n"));
    }
    for made in report.made.iter().flat_map(Made::lines) {
        line(&mut text, &format!("- {made}"));
    }
    for note in report.notes() {
        line(&mut text, &format!("- {note}"));
    }
    line(&mut text, "\n## Verdict\n");
    verdicts(report, &mut text);
    if plots.contains(&"overview") {
        line(&mut text, "\n![times the best peer](overview.svg)");
    }
    line(&mut text, "\n## Between two nodes\n");
    for plot in plots.iter().filter(|it| !ELSEWHERE.contains(it)) {
        line(&mut text, &format!("![{plot}]({plot}.svg)\n"));
    }
    steps(report, &mut text);
    if plots.contains(&"same-node") {
        line(
            &mut text,
            "## Inside of a node\n\n![same node](same-node.svg)\n",
        );
    }
    beside(report, &mut text);
    line(&mut text, "## All medians\n");
    medians(report, &mut text);
    text
}

/// What more at a time does, to ours and to others.
fn steps(report: &Report, text: &mut String) {
    let steps = report.steps();
    if steps.is_empty() {
        return;
    }
    line(text, "### More at a time\n");
    line(text, "| from | to | ours | raw | best peer |");
    line(text, "|---|---|--:|--:|--:|");
    for ([fewer, more], ratios) in steps {
        let [ours, raw, peer] = ratios.map(|it| it.map_or_else(|| "–".to_owned(), times));
        let cells = [fewer.to_owned(), more.to_owned(), ours, raw, peer];
        line(text, &row(&cells));
    }
    line(text, "");
}

/// What the ratios inside of a node stand beside.
fn beside(report: &Report, text: &mut String) {
    let all = report.beside();
    if all.is_empty() {
        return;
    }
    line(text, "### Beside the same without us\n");
    line(
        text,
        "| work | same_node | unmeshed_same_node | control_same_node |",
    );
    line(text, "|---|--:|--:|--:|");
    for (work, ratios) in all {
        let told = ratios.map(|it| match it {
            Some((ratio, error)) => format!("{} ±{}", times(ratio), number(error)),
            None => "–".to_owned(),
        });
        let cells = [&[work.to_owned()], told.as_slice()].concat();
        line(text, &row(&cells));
    }
    line(text, "");
}

/// Plots that have another place than the others.
const ELSEWHERE: [&str; 2] = ["overview", "same-node"];

fn verdicts(report: &Report, text: &mut String) {
    let verdicts = report.verdicts();
    line(text, &format!("{}\n", report.summary()));
    line(text, &row(&HEADINGS.map(str::to_owned)));
    line(text, "|---|---|--:|--:|--:|--:|---|");
    for verdict in &verdicts {
        let mut cells = verdict.cells();
        if verdict.outcome().is_lacking()
            && let Some(last) = cells.last_mut()
        {
            *last = format!("**{last}**");
        }
        line(text, &row(&cells));
    }
}

/// A row per work, a column per variant; ratios are to raw TCP.
fn medians(report: &Report, text: &mut String) {
    let names = report.variants().iter().map(ToString::to_string);
    let heading = ["work".to_owned(), "unit".to_owned()]
        .into_iter()
        .chain(names);
    line(text, &row(&heading.collect::<Vec<_>>()));
    let columns = "--:|".repeat(report.variants().len());
    line(text, &format!("|---|---|{columns}"));
    for work in report.works() {
        let cells = report.variants().iter().map(|it| report.cell(work, it));
        let front = [work.clone(), report.unit(work).to_owned()];
        line(
            text,
            &row(&front.into_iter().chain(cells).collect::<Vec<_>>()),
        );
    }
}

/// A row of a table.
pub(super) fn row(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::plan::Plan;
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_written_anew() {
        let page = format!("Before.\n{}\nold\n{}\nAfter.\n", MARKERS[0], MARKERS[1]);
        let report = super::super::tests::report();
        let new = between(&page, MARKERS, &contents(&report, &["overview"])).unwrap();
        assert!(new.starts_with("Before.\n<!--") && new.ends_with("-->\nAfter.\n"));
        assert!(!new.contains("old"));
        let said = [
            "| throughput_up_4 | envoy | 0.91× | 0.91–1.00, 0 of 3 | ≥ 1.60× | ≥ 2.20× | **missed** |",
            "| http_64 | best peer | – | – | ≥ 1.10× | ≥ 1.40× | **not measured (not asked for)** |",
            "| throughput_up_4 | Gbit/s | 33.0 | 10.0 (0.30×) | 11.0 (0.33×) | 5.00 (0.17×) |",
            "1 of 56 reached, 1 missed, 54 not measured.",
        ];
        for said in said {
            assert!(new.contains(said), "{said} in {new}");
        }
        assert_eq!(between("no markers", MARKERS, ""), None);
    }

    #[test]
    fn a_page_of_a_quick_run_begins_with_saying_so() {
        let mut report = super::super::tests::report();
        let elapsed = Duration::from_secs(121);
        report.made(Made::example(&Plan::quick(), elapsed));
        let page = contents(&report, &[]);
        let first = page.lines().next().unwrap_or_default();
        assert!(first.starts_with("**This run is a look, not a proof**: made with `--quick`"));
        assert!(page.contains("- plan: quick; commit 0c0725a; 2:01 minutes in all"));
        report.made(Made::example(&Plan::full(), elapsed));
        assert!(contents(&report, &[]).starts_with("- plan: full;"));
    }
}
