//! "did you mean ...?": the nearest of some candidates.
//! Unaware of what is being named.

use std::borrow::Cow;

/// A candidate further away than this is no suggestion.
const TOO_FAR: usize = 3;

/// The candidate nearest to `text` when it is at most two edits away; None when one equals it (then spelling isn't what is wrong).
pub fn nearest<S: AsRef<str>>(text: &str, candidates: impl IntoIterator<Item = S>) -> Option<String> {
    nearest_by(text, candidates, as_it_is)
}

/// The same without regard to case; the answer takes the case of `text` where that is uniform.
pub fn nearest_any_case<S: AsRef<str>>(text: &str, candidates: impl IntoIterator<Item = S>) -> Option<String> {
    let found = nearest_by(&text.to_lowercase(), candidates, |candidate| candidate.to_lowercase().into())?;
    Some(if text == text.to_lowercase() {
        found
    } else if text == text.to_uppercase() {
        found.to_uppercase()
    } else {
        found
    })
}

fn as_it_is(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

fn nearest_by<S: AsRef<str>>(text: &str, candidates: impl IntoIterator<Item = S>, fold: impl Fn(&str) -> Cow<'_, str>) -> Option<String> {
    let text: Vec<char> = text.chars().collect();
    let mut best = None;
    let mut best_distance = TOO_FAR;
    for candidate in candidates {
        let candidate = fold(candidate.as_ref());
        // Most are told apart by their length alone.
        if text.len().abs_diff(candidate.chars().count()) >= best_distance {
            continue;
        }
        let distance = distance(&text, &candidate, best_distance);
        if distance == 0 {
            return None;
        }
        if distance < best_distance {
            best_distance = distance;
            best = Some(candidate.into_owned());
        }
    }
    best.filter(|found| !found.is_empty())
}

/// Levenshtein distance; any number `>= limit` means "too far".
fn distance(left: &[char], right: &str, limit: usize) -> usize {
    let mut row: Vec<usize> = (0..=left.len()).collect();
    for (line, a) in right.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, b) in left.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
        // It never gets less further down.
        if row.iter().all(|so_far| *so_far >= limit) {
            return limit;
        }
    }
    row[left.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_near() {
        for (text, candidates, expected) in [
            ("typ", &["type", "from"][..], Some("type")),
            ("bulid", &["build", "base"], Some("build")),
            ("zzz", &["type", "from"], None),
            ("type", &["type", "typed"], None),
            ("", &["a", "bcd"], Some("a")),
            ("abc", &["ab", "abcd"], Some("ab")),
            ("abc", &["ab", "abc"], None),
            ("kitten", &["sitting"], None),
            ("kitten", &["sittin"], Some("sittin")),
            ("straße", &["strase"], Some("strase")),
        ] {
            assert_eq!(nearest(text, candidates).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn keeps_the_case_of_the_text() {
        let names = ["COPY", "ENTRYPOINT"];
        assert_eq!(nearest_any_case("COPPY", names).as_deref(), Some("COPY"));
        assert_eq!(nearest_any_case("coppy", names).as_deref(), Some("copy"));
        assert_eq!(nearest_any_case("Coppy", names).as_deref(), Some("copy"));
    }
}
