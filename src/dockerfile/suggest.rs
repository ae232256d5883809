//! "did you mean ...?": the nearest of some candidates.
//! Unaware of what is being named.

/// A candidate further away than this is no suggestion.
const TOO_FAR: usize = 3;

/// The candidate nearest to `text` when it is at most two edits away; None when one equals it (then spelling isn't what is wrong).
pub fn nearest<S: AsRef<str>>(text: &str, candidates: impl IntoIterator<Item = S>) -> Option<String> {
    nearest_by(text, candidates, |candidate| candidate.to_owned())
}

/// The same without regard to case; the answer takes the case of `text` where that is uniform.
pub fn nearest_any_case<S: AsRef<str>>(text: &str, candidates: impl IntoIterator<Item = S>) -> Option<String> {
    let found = nearest_by(&text.to_lowercase(), candidates, |candidate| candidate.to_lowercase())?;
    Some(if text == text.to_lowercase() {
        found
    } else if text == text.to_uppercase() {
        found.to_uppercase()
    } else {
        found
    })
}

fn nearest_by<S: AsRef<str>>(text: &str, candidates: impl IntoIterator<Item = S>, fold: impl Fn(&str) -> String) -> Option<String> {
    let mut best = None;
    let mut best_distance = TOO_FAR;
    for candidate in candidates {
        let candidate = fold(candidate.as_ref());
        if candidate == text {
            return None;
        }
        let distance = distance(text, &candidate, best_distance);
        if distance < best_distance {
            best_distance = distance;
            best = Some(candidate);
        }
    }
    best.filter(|found| !found.is_empty())
}

/// Levenshtein distance; any number `>= limit` means "too far".
fn distance(left: &str, right: &str, limit: usize) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    if left.len().abs_diff(right.len()) >= limit {
        return limit;
    }
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, a) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(a != b);
            current.push(replaced.min(previous[column + 1] + 1).min(current[column] + 1));
        }
        previous = current;
    }
    previous[right.len()]
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
