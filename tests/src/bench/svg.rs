//! Drawing: SVG by hand, on a ground of its own that is light or dark as the reader's screen is.

use std::fmt::Write as _;

/// A drawing under way.
pub(super) struct Svg {
    width: f64,
    body: String,
}

/// Where a text begins, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// For series, on light and on dark ground: the first is for what is compared with, the second for
/// ours, the others for peers. They differ in lightness as well, for whoever cannot tell hues.
const SERIES: [[&str; 2]; 7] = [
    ["#aeb7c1", "#6e7681"],
    ["#0969da", "#4493f8"],
    ["#e8912d", "#f0a13c"],
    ["#8250df", "#ab7df8"],
    ["#1a7f37", "#3fb950"],
    ["#cf222e", "#f85149"],
    ["#8c6a4f", "#bf9a7d"],
];

/// Ground, text, muted text, lines.
const OTHERS: [[&str; 2]; 4] = [
    ["#ffffff", "#0d1117"],
    ["#1f2328", "#f0f6fc"],
    ["#59636e", "#9198a1"],
    ["#d1d9e0", "#30363d"],
];

/// Not with CSS variables: not every program that draws SVG knows them.
fn style() -> String {
    let ground = |which: usize| {
        let [ground, text, muted, line] =
            OTHERS.map(|both| both.into_iter().nth(which).unwrap_or_default());
        let series = SERIES.iter().zip(0..).map(|(both, number)| {
            let color = both.get(which).copied().unwrap_or_default();
            format!(".c{number}{{fill:{color}}}.s{number}{{stroke:{color}}}")
        });
        format!(
            ".g{{fill:{ground}}}text{{fill:{text}}}.m{{fill:{muted}}}line{{stroke:{line}}}\
             .t{{stroke:{text}}}{}",
            series.collect::<String>()
        )
    };
    format!(
        "<style>text{{font-family:system-ui,sans-serif;font-size:12px}}.h{{font-size:16px;font-weight:600}}\
         .b{{font-weight:600}}polyline{{fill:none;stroke-width:2}}{}\
         @media(prefers-color-scheme:dark){{{}}}</style>",
        ground(0),
        ground(1)
    )
}

impl Svg {
    /// A drawing with a title, so wide.
    pub(super) fn new(width: f64, title: &str, subtitle: &str) -> Self {
        let body = String::new();
        let mut svg = Self { width, body };
        svg.text((16.0, 28.0), Anchor::Start, "h", title);
        svg.text((16.0, 48.0), Anchor::Start, "m", subtitle);
        svg
    }

    /// A text of a class: `h` is a heading, `b` bold, `m` muted.
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.line(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\"{anchor} class=\"{class}\">{text}</text>"
        ));
    }

    /// A bar of a colour.
    pub(super) fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), color: usize) {
        let color = color % SERIES.len();
        self.line(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" \
             class=\"c{color}\"/>"
        ));
    }

    /// A line of the ground's, or, for what is to be seen, of the text's colour.
    pub(super) fn rule(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        self.line(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"{class}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// A curve of a colour through points, each of which is marked.
    pub(super) fn curve(&mut self, points: &[(f64, f64)], color: usize) {
        let color = color % SERIES.len();
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        self.line(format_args!(
            "<polyline points=\"{}\" class=\"s{color}\"/>",
            path.join(" ")
        ));
        for (x, y) in points {
            self.line(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"c{color}\"/>"
            ));
        }
    }

    /// The finished drawing, so high.
    pub(super) fn finish(self, height: f64) -> String {
        let Self { width, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\">\n{}\n\
             <rect width=\"100%\" height=\"100%\" class=\"g\"/>\n{body}</svg>\n",
            style()
        )
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        writeln!(self.body, "{text}").unwrap_or_default();
    }
}
