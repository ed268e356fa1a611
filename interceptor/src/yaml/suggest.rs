//! "Did you mean": the nearest of the words that would have been right.

/// Longer words are never compared: the cost is quadratic, and nobody mistypes that much.
const LONGEST: usize = 64;

/// The candidate that `word` was probably meant to be, if one is near enough: at most a third of
/// its letters differ, letter case not counted.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of
/// neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let substituted = cell(&last, j) + usize::from(from != to);
            let mut best = substituted
                .min(cell(&last, j + 1) + 1)
                .min(cell(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                best = best.min(cell(&before_last, j - 1) + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::nearest;

    #[rstest]
    #[case::a_letter_too_few("portLevelMtl", Some("portLevelMtls"))]
    #[case::a_swap("sepc", Some("spec"))]
    #[case::letter_case("hostnetwork", Some("hostNetwork"))]
    #[case::something_else("frobnicate", None)]
    #[case::nothing("", None)]
    fn the_nearest_word_is_suggested(#[case] word: &str, #[case] expected: Option<&str>) {
        let known = ["portLevelMtls", "spec", "hostNetwork", "selector"];
        assert_eq!(nearest(word, known), expected);
    }

    #[test]
    fn very_long_words_are_not_compared() {
        assert_eq!(nearest(&"x".repeat(1_000_000), ["spec"]), None);
    }
}
