//! Curves: what something costs by how much there is of it, in small panels with a scale each.

use super::figure::{Variant, to_float};
use super::page::row;
use super::report::Report;
use super::scale::size_of;
use super::svg::{Anchor, Svg};
use super::table::number;

/// A page of panels that have what grows in common.
pub(super) struct Chart {
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    pub(super) subtitle: &'static str,
    /// What there is more of.
    pub(super) grows: &'static str,
    pub(super) axis: Axis,
    pub(super) panels: &'static [Panel],
    /// What is in the table only.
    pub(super) beside: &'static [Panel],
}

/// How what grows is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Linear,
    Logarithmic,
}

/// One diagram: its series by name and by how the names of their works begin.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) series: &'static [(&'static str, &'static str)],
}

/// Size of a panel's area, and what is around it.
const SIZE: (f64, f64) = (330.0, 150.0);
const AROUND: (f64, f64) = (430.0, 240.0);
const TOP: f64 = 104.0;
const LEFT: f64 = 64.0;

type Points = Vec<(f64, f64)>;

impl Chart {
    /// Nothing if none of it was measured.
    pub(super) fn draw(&self, report: &Report) -> Option<String> {
        let measured: Vec<(&Panel, Vec<Points>)> = self
            .panels
            .iter()
            .map(|panel| (panel, panel.points(report)))
            .filter(|(_, series)| series.iter().any(|points| points.len() > 1))
            .collect();
        let columns = measured.len().min(2);
        let rows = measured.len().div_ceil(2);
        if rows == 0 {
            return None;
        }
        let mut svg = Svg::new(float(columns) * AROUND.0, self.title, self.subtitle);
        for (index, (panel, series)) in measured.iter().enumerate() {
            let left = LEFT + float(index % 2) * AROUND.0;
            let top = TOP + float(index / 2) * AROUND.1;
            self.panel(&mut svg, (left, top), panel, series);
        }
        Some(svg.finish(TOP - 40.0 + float(rows) * AROUND.1))
    }

    fn panel(&self, svg: &mut Svg, (left, top): (f64, f64), panel: &Panel, series: &[Points]) {
        svg.text((left - 40.0, top - 16.0), Anchor::Start, "b", panel.title);
        let all = || series.iter().flatten();
        let highest = round(all().map(|point| point.1).fold(0.0, f64::max));
        let (least, most) = all().fold((f64::MAX, f64::MIN_POSITIVE), |(least, most), point| {
            (least.min(point.0), most.max(point.0))
        });
        let x = |value: f64| {
            left + SIZE.0
                * match self.axis {
                    Axis::Linear => value / most,
                    Axis::Logarithmic => (value / least).ln() / (most / least).ln(),
                }
        };
        let y = |value: f64| top + SIZE.1 * (1.0 - value / highest);
        for part in [0.0, 0.5, 1.0] {
            let value = highest * part;
            svg.rule((left, y(value)), (left + SIZE.0, y(value)), "");
            svg.text(
                (left - 8.0, y(value) + 4.0),
                Anchor::End,
                "m",
                &number(value),
            );
        }
        let mut last = f64::MIN;
        for (value, _) in series.first().into_iter().flatten() {
            // Where there is room for it.
            if x(*value) - last > 48.0 {
                let label = number_of(*value);
                svg.text(
                    (x(*value), top + SIZE.1 + 18.0),
                    Anchor::Middle,
                    "m",
                    &label,
                );
                last = x(*value);
            }
        }
        let below = (left + SIZE.0 / 2.0, top + SIZE.1 + 36.0);
        svg.text(below, Anchor::Middle, "m", self.grows);
        for (color, (points, (name, _))) in series.iter().zip(panel.series).enumerate() {
            let points: Points = points
                .iter()
                .map(|(at, value)| (x(*at), y(*value)))
                .collect();
            svg.curve(&points, color + 1);
            if !name.is_empty() {
                let at = left + SIZE.0 - 100.0 + 68.0 * float(color);
                svg.bar((at, top - 25.0), (10.0, 10.0), color + 1);
                svg.text((at + 14.0, top - 16.0), Anchor::Start, "m", name);
            }
        }
    }

    /// The same in figures.
    pub(super) fn table(&self, report: &Report) -> String {
        let columns: Vec<(String, Points)> = self
            .panels
            .iter()
            .chain(self.beside)
            .flat_map(|panel| {
                let points = panel.points(report).into_iter();
                points.zip(panel.series).map(|(points, (name, _))| {
                    let separator = if name.is_empty() { "" } else { ": " };
                    (format!("{}{separator}{name}", panel.title), points)
                })
            })
            .filter(|column| !column.1.is_empty())
            .collect();
        let names = columns.iter().map(|column| column.0.clone());
        let heading: Vec<String> = [self.grows.to_owned()].into_iter().chain(names).collect();
        let mut table = format!("{}\n|{}\n", row(&heading), "--:|".repeat(heading.len()));
        let sizes = columns.first().map(|it| it.1.clone()).unwrap_or_default();
        for (size, _) in sizes {
            let cells = columns.iter().map(|(_, points)| {
                let point = points.iter().find(|it| it.0 - size == 0.0);
                point.map_or("–".to_owned(), |it| number(it.1))
            });
            let cells: Vec<String> = [number_of(size)].into_iter().chain(cells).collect();
            table.push_str(&row(&cells));
            table.push('\n');
        }
        table
    }
}

impl Panel {
    /// What was measured, by how much there was.
    fn points(&self, report: &Report) -> Vec<Points> {
        let of = |prefix: &str| {
            let works = report.works().iter();
            let mut points: Points = works
                .filter_map(|work| {
                    let size = size_of(work, prefix)?;
                    Some((size, report.median(work, &Variant::CrossNode)?))
                })
                .collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            points
        };
        self.series.iter().map(|(_, prefix)| of(prefix)).collect()
    }
}

/// A count for people.
fn number_of(count: f64) -> String {
    if count < 1000.0 {
        return format!("{count:.0}");
    }
    let digits = format!("{count:.0}");
    let (thousands, rest) = digits.split_at(digits.len() - 3);
    format!("{thousands},{rest}")
}

/// The next number that is a good end of an axis.
fn round(value: f64) -> f64 {
    let magnitude = 10_f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * magnitude >= value);
    step.unwrap_or(10.0) * magnitude
}

fn float(count: usize) -> f64 {
    to_float(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::figure::Figure;
    use super::*;

    const CHART: Chart = Chart {
        file: "workloads",
        title: "More workloads",
        subtitle: "",
        grows: "workloads",
        axis: Axis::Linear,
        panels: &[Panel {
            title: "memory, MiB",
            series: &[("", "mesh_rss_mb_")],
        }],
        beside: &[],
    };

    #[test]
    fn a_curve_has_a_point_for_each_size_that_was_measured() {
        let mut report = Report::new(vec![Variant::CrossNode]);
        assert_eq!(CHART.draw(&report), None);
        for (work, value) in [("mesh_rss_mb_50000", 150.0), ("mesh_rss_mb_1000", 38.0)] {
            report.add(1, &Variant::CrossNode, &[Figure::new(work, "MiB", value)]);
        }
        let svg = CHART.draw(&report).unwrap();
        // From the left to the right end, 150 being the top.
        assert!(
            svg.contains("<polyline points=\"70.6,216.0 394.0,104.0\""),
            "{svg}"
        );
        let table = "| workloads | memory, MiB |\n|--:|--:|\n| 1,000 | 38.0 |\n| 50,000 | 150 |\n";
        assert_eq!(CHART.table(&report), table);
    }

    #[test]
    fn an_axis_ends_at_a_round_number() {
        for (value, end) in [(1.04, 1.5), (154.0, 200.0), (9.1, 10.0), (8.0, 8.0)] {
            assert!((round(value) - end).abs() < 1e-9, "{value}");
        }
    }
}
