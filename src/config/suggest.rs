//! "Did you mean": the known word nearest to an unknown one.

/// Longer words are not typing errors of a key, and comparing costs the product of the lengths.
const WORD_MAX: usize = 64;
/// Candidates looked at; beyond that a hint is not worth its time.
const CANDIDATES_MAX: usize = 1_000;

/// The candidate that differs from `word` in the fewest keystrokes, if that is at most a third of it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > WORD_MAX {
        return None;
    }
    let limit = (length / 3).max(1);
    candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter(|candidate| candidate.len() <= WORD_MAX && *candidate != word)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or the candidates when none is near, or nothing when there are none.
pub fn hint<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str, IntoIter: Clone>,
) -> String {
    let candidates = candidates.into_iter();
    if let Some(near) = nearest(word, candidates.clone()) {
        return format!("did you mean `{near}`?");
    }
    let known: Vec<_> = candidates
        .take(24)
        .map(|name| format!("`{name}`"))
        .collect();
    match known.len() {
        0 => String::new(),
        1 => format!("only {} is known here", known[0]),
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows: [Vec<usize>; 3] = [vec![], vec![], (0..=b.len()).collect()];
    for i in 1..=a.len() {
        rows.rotate_left(1);
        rows[2] = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[1][j - 1] + same)
                .min(rows[1][j] + 1)
                .min(rows[2][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[0][j - 2] + 1);
            }
            rows[2][j] = best;
        }
    }
    rows[2][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_finds_its_word() {
        let known = ["listeners", "pools", "routes", "server"];
        for (word, expected) in [
            ("liseners", Some("listeners")),
            ("rotues", Some("routes")),
            ("Pool", Some("pools")),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), known), None);
    }

    #[test]
    fn when_no_word_is_near_all_are_named() {
        assert_eq!(
            hint("zzz", ["a1234", "b1234"]),
            "known here: `a1234`, `b1234`"
        );
        assert_eq!(hint("zzz", ["a1234"]), "only `a1234` is known here");
        assert_eq!(hint("zzz", []), "");
    }
}
