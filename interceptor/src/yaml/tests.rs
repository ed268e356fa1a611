//! Bounds, places and the reader's messages.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::{Document, Limits, Mistake, Reader, Report, Resolved, parse, parse_bytes};

fn file() -> Arc<str> {
    Arc::from("demo.yaml")
}

fn read(text: &str) -> (Vec<Document>, Vec<String>) {
    read_within(text, &Limits::default())
}

fn read_within(text: &str, limits: &Limits) -> (Vec<Document>, Vec<String>) {
    let report = Report::default();
    let documents = parse(&file(), text, limits, &report);
    (documents, shown(report))
}

fn shown(report: Report) -> Vec<String> {
    report
        .into_mistakes()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Reads the first document with `with` and returns all mistakes.
fn mistakes(text: &str, with: impl FnOnce(&Reader<'_>)) -> Vec<String> {
    let report = Report::default();
    let documents = parse(&file(), text, &Limits::default(), &report);
    with(&Reader::new(&documents[0], &report));
    shown(report)
}

#[test]
fn a_mistake_is_one_bounded_line_whatever_it_quotes() {
    let file = Arc::from("a.yaml");
    let hostile = format!(
        "unknown kind `Pod\n\u{1b}[2J\u{202e}{}`",
        "x".repeat(10_000)
    );
    let shown = Mistake::in_file(&file, hostile).to_string();
    assert!(
        shown.starts_with("a.yaml: unknown kind `Pod\\n\\u{1b}[2J\\u{202e}xxx"),
        "{shown}"
    );
    assert!(shown.len() < 2000 && shown.ends_with('…'));
}

#[test]
fn every_value_knows_its_line_in_every_document() {
    let (documents, mistakes) = read("# head\n---\na: 1\n---\n---\nb:\n  - x\n  - y: z\n");
    assert_eq!(mistakes, Vec::<String>::new());
    assert_eq!(documents.len(), 2, "the empty document is skipped");
    let at = documents[1].root.locate("b[1].y");
    assert_eq!((at.line, at.column), (8, 8));
    let nearest = documents[1].root.locate("b[7].y");
    assert_eq!((nearest.line, nearest.column), (6, 1));
}

#[test]
fn keys_with_dots_are_located_in_brackets() {
    let (documents, _) = read("metadata:\n  annotations:\n    istio.io/dry-run: \"true\"\n");
    let at = documents[0]
        .root
        .locate("metadata.annotations[\"istio.io/dry-run\"]");
    assert_eq!((at.line, at.column), (3, 23));
}

#[test]
fn json_is_read_too_tabs_included() {
    let (documents, mistakes) =
        read("{\n\t\"kind\": \"Pod\",\n\t\"n\": [1, 2],\n\t\"u\": \"\\u00e9\\/\"\n}\n");
    assert_eq!(mistakes, Vec::<String>::new());
    assert!(documents[0].root.get("kind").is_some());
}

#[rstest]
#[case::duplicate_key(
    "a: 1\nb:\n  c: 1\n  c: 2\n",
    "demo.yaml:4:3: b.c: is there twice, first in line 3"
)]
#[case::merge_key(
    "a: &x {b: 1}\nc:\n  <<: *x\n",
    "demo.yaml:3:3: c: merge keys (<<) are not supported; write the fields out"
)]
#[case::complex_key(
    "? [a]\n: b\n",
    "demo.yaml:1:3: a key must be a plain word, not a list or a map"
)]
#[case::unknown_tag("a: !secret b\n", "demo.yaml:1:4: a: the tag !secret is not supported")]
#[case::alias_of_another_document(
    "a: &x 1\n---\nb: *x\n",
    "demo.yaml:3:4: b: alias of something that is not in this document"
)]
#[case::grammar(
    "a: b: c\n",
    "demo.yaml:1:5: mapping values are not allowed in this context"
)]
fn what_is_ambiguous_is_a_mistake(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(read(text).1, [expected]);
}

#[test]
fn duplicate_keys_are_found_in_maps_of_every_size() {
    for size in 1..40 {
        for again in 0..size {
            let mut text = String::new();
            for key in 0..size {
                writeln!(text, "k{key}: v").unwrap();
            }
            writeln!(text, "k{again}: v").unwrap();
            let (_, mistakes) = read(&text);
            let first = again + 1;
            let expected = format!("k{again}: is there twice, first in line {first}");
            assert_eq!(mistakes.len(), 1);
            assert!(mistakes[0].ends_with(&expected), "{mistakes:?}");
        }
    }
}

#[test]
fn documents_before_a_grammar_mistake_are_still_read() {
    let (documents, mistakes) = read("a: 1\n---\nb: [1\n---\nc: 1\n");
    assert_eq!(documents.len(), 1);
    assert_eq!(mistakes.len(), 1);
}

#[test]
fn bytes_that_are_not_utf8_are_located() {
    let report = Report::default();
    parse_bytes(&file(), b"a: b\nc: \xff\n", &Limits::default(), &report);
    assert_eq!(
        shown(report),
        ["demo.yaml:2:4: is not UTF-8 text from here on; save the file as UTF-8"]
    );
}

#[test]
fn a_billion_laughs_are_an_error_and_not_memory() {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..20 {
        let before = level - 1;
        let aliases = vec![format!("*a{before}"); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    let (_, mistakes) = read(&text);
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].contains("anchors and aliases copy more than 100000 values"));
}

fn indented(depth: usize) -> String {
    let mut text = String::new();
    for column in 0..depth {
        writeln!(text, "{}a:", " ".repeat(column)).unwrap();
    }
    text
}

#[rstest]
#[case::flow("[".repeat(100_000))]
#[case::block("- ".repeat(100_000))]
#[case::maps("{a: ".repeat(100_000))]
#[case::indentation(indented(1000))]
fn deep_nesting_is_an_error(#[case] text: String) {
    let (documents, mistakes) = read(&text);
    assert_eq!((documents.len(), mistakes.len()), (0, 1));
}

#[test]
fn aliases_cannot_nest_deeper_than_the_limit() {
    let mut text = String::from("a0: &a0 x\n");
    for level in 1..200 {
        writeln!(text, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    let (_, mistakes) = read(&text);
    assert!(
        mistakes[0].contains("nested more than 100 deep"),
        "{mistakes:?}"
    );
}

#[test]
fn size_and_number_of_values_are_bounded() {
    let limits = Limits {
        bytes: 100,
        nodes: 10,
        ..Limits::default()
    };
    let (_, mistakes) = read_within(&"x".repeat(101), &limits);
    assert_eq!(
        mistakes,
        ["demo.yaml: is 101 bytes long, the limit is 100; split it into several files"]
    );
    let (_, mistakes) = read_within(&"- a\n".repeat(11), &limits);
    assert_eq!(
        mistakes,
        ["demo.yaml:11:3: [10]: more than 10 values in one file; split it into several"]
    );
}

#[test]
fn the_number_of_mistakes_is_bounded_and_the_rest_counted() {
    let mut text = String::new();
    for n in 0..300 {
        writeln!(text, "unknown{n}: 1").unwrap();
    }
    let found = mistakes(&text, |reader| reader.fields().unwrap().no_others());
    assert_eq!(found.len(), 101);
    assert_eq!(
        found[100],
        "demo.yaml: 200 more mistakes in this file are not shown"
    );
}

#[rstest]
#[case("~", Resolved::Null)]
#[case("\"\"", Resolved::Text)]
#[case("on", Resolved::Boolean(true))]
#[case("\"on\"", Resolved::Text)]
#[case("8080", Resolved::Integer)]
#[case("0644", Resolved::Number)]
#[case("12e4", Resolved::Number)]
#[case("1.28", Resolved::Number)]
#[case("10.0.0.1", Resolved::Text)]
#[case("1m", Resolved::Text)]
#[case("infinity", Resolved::Text)]
#[case("!!str 8080", Resolved::Text)]
#[case("|\n 8080", Resolved::Text)]
fn plain_scalars_mean_what_kubernetes_takes_them_for(
    #[case] text: &str,
    #[case] as_what: Resolved,
) {
    let (documents, _) = read(&format!("a: {text}\n"));
    let entry = documents[0].root.get("a").unwrap();
    let super::Value::Scalar(scalar) = &entry.value.value else {
        panic!("a scalar");
    };
    assert_eq!(scalar.resolve(), as_what);
}

#[test]
fn all_mistakes_are_reported_together_with_place_key_and_remedy() {
    let text = "\
name: 8080
count: many
big: 70000
flag: perhaps
wait: 10
mode: STRIKT
list: {a: b}
portLevelMtl: {}
frobnicate: 1
";
    let found = mistakes(text, |reader| {
        let fields = reader.fields().unwrap();
        fields.required("name").map(|name| name.text().map(drop));
        fields
            .required("count")
            .map(|count| count.integer(0..=9_u8));
        fields.required("big").map(|big| big.integer(1..=65535_u16));
        fields.required("flag").map(|flag| flag.boolean());
        fields.required("wait").map(|wait| wait.duration());
        let modes = [("STRICT", 1), ("PERMISSIVE", 2), ("DISABLE", 3)];
        fields.required("mode").map(|mode| mode.one_of(&modes));
        fields.required("list").map(|list| list.texts());
        fields.required("selector");
        fields.optional("portLevelMtls");
        fields.no_others();
    });
    insta::assert_snapshot!(found.join("\n"), @r#"
    demo.yaml:1:1: field `selector` is missing
    demo.yaml:1:7: name: must be text, not the number 8080; write it in quotes: "8080"
    demo.yaml:2:8: count: must be a number from 0 to 9, not the text "many"
    demo.yaml:3:6: big: must be a number from 1 to 65535, not the number 70000
    demo.yaml:4:7: flag: must be true or false, not the text "perhaps"
    demo.yaml:5:7: wait: must be a duration such as 10s, 5m or 24h, not the number 10
    demo.yaml:6:7: mode: must be STRICT, PERMISSIVE or DISABLE, not the text "STRIKT"; did you mean STRICT?
    demo.yaml:7:1: list: must be a list, not a map
    demo.yaml:8:1: unknown field `portLevelMtl`; did you mean `portLevelMtls`?
    demo.yaml:9:1: unknown field `frobnicate`; known here: name, count, big, flag, wait, mode, list, selector, portLevelMtls
    "#);
}

#[test]
fn right_values_are_read() {
    let found = mistakes(
        "d: 1m30s\nt: [\"1\", b]\nm: {a.b/c: d}\nn: null\np: 10.0.0.1\n",
        |reader| {
            let fields = reader.fields().unwrap();
            assert_eq!(
                fields.required("d").unwrap().duration(),
                Some(Duration::from_secs(90))
            );
            assert_eq!(fields.required("t").unwrap().texts(), ["1", "b"]);
            assert_eq!(fields.required("m").unwrap().text_map()["a.b/c"], "d");
            assert!(fields.optional("n").is_none());
            let ip: Option<std::net::IpAddr> = fields.required("p").unwrap().parsed();
            assert_eq!(ip, Some(std::net::IpAddr::from([10, 0, 0, 1])));
            fields.no_others();
        },
    );
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn hostile_text_in_messages_is_escaped_and_short() {
    let long = "x".repeat(10_000);
    let found = mistakes(&format!("a: \"\\e[31m{long}\"\n"), |reader| {
        reader.fields().unwrap().required("a").map(|a| a.boolean());
    });
    assert!(
        found[0].len() < 200 && found[0].contains("\\u{1b}[31m"),
        "{}",
        found[0]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_panics_on_arbitrary_text(text in "\\PC*") {
        read(&text);
    }

    #[test]
    fn nothing_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let report = Report::default();
        parse_bytes(&file(), &bytes, &Limits::default(), &report);
    }

    #[test]
    fn nothing_panics_on_what_looks_like_yaml(
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "a", "b: ", "- ", "? ", ": ", "\n", "\n  ", "[", "]", "{", "}", ", ", "\"", "'",
                "|\n", ">-\n", "&a ", "*a", "!!str ", "!x ", "---\n", "...\n", "# c\n", "<<: ",
                "\\", "\t", "%TAG ! x\n", "~", "\r\n", "\u{feff}", "\u{85}", "1.5", "0x1f",
            ]),
            0..40,
        ),
    ) {
        let (documents, _) = read(&pieces.concat());
        let report = Report::default();
        for document in &documents {
            if let Some(fields) = Reader::new(document, &report).fields() {
                fields.optional("a").map(|a| a.texts());
                fields.optional("b").map(|b| b.duration());
                fields.no_others();
            }
        }
    }
}
