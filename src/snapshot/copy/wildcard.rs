//! Go's `filepath.Match` for one name: `*`, `?`, `[a-z]`, `[^a]` and `\` before any of them.

/// Whether a name means anything but itself.
pub(crate) fn has_wildcards(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether the whole name matches; a pattern with a mistake in it matches nothing.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    // Where to go on when a guess at what the last star covers was wrong.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, position));
            at += 1;
            continue;
        }
        if at == pattern.len() && position == name.len() {
            return true;
        }
        match one(&pattern[at..], &name[position..]) {
            Some((taken, width)) => {
                at += taken;
                position += width;
            }
            None => match star {
                Some((after, covered)) if covered < name.len() => {
                    star = Some((after, covered + 1));
                    (at, position) = (after, covered + 1);
                }
                _ => return false,
            },
        }
    }
}

/// Matches one character: how much of the pattern and of the name that used up.
fn one(pattern: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let (character, width) = next_character(name)?;
    match pattern.first()? {
        b'?' => Some((1, width)),
        b'[' => class(pattern, character).map(|taken| (taken, width)),
        b'\\' => {
            let (literal, size) = next_character(&pattern[1..])?;
            (literal == character).then_some((1 + size, width))
        }
        _ => {
            let (literal, size) = next_character(pattern)?;
            (literal == character).then_some((size, width))
        }
    }
}

/// The length of the class at the start of `pattern` if the character is in it.
fn class(pattern: &[u8], character: u32) -> Option<usize> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut hit = false;
    let mut ranges = 0;
    while !(ranges > 0 && pattern.get(at) == Some(&b']')) {
        let (low, size) = class_character(&pattern[at.min(pattern.len())..])?;
        at += size;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            let (end, size) = class_character(&pattern[at + 1..])?;
            high = end;
            at += 1 + size;
        }
        hit |= (low..=high).contains(&character);
        ranges += 1;
    }
    (hit != negated).then_some(at + 1)
}

fn class_character(pattern: &[u8]) -> Option<(u32, usize)> {
    match pattern.first()? {
        b'-' | b']' => None,
        b'\\' => next_character(&pattern[1..]).map(|(character, size)| (character, size + 1)),
        _ => next_character(pattern),
    }
}

/// The first character and its length; a byte that is no UTF-8 stands for itself.
fn next_character(bytes: &[u8]) -> Option<(u32, usize)> {
    let first = *bytes.first()?;
    let width = match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    let decoded = bytes.get(..width).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|text| text.chars().next());
    Some(decoded.map_or((0x11_0000 + u32::from(first), 1), |character| (character as u32, width)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_go_matches_them() {
        let yes = [
            "abc abc",
            "* abc",
            "*c abc",
            "a* a",
            "a* abc",
            "a*b?c*x abxbbxdbxebxczzx",
            "ab[c] abc",
            "ab[b-d] abc",
            "ab[^e-g] abc",
            "a\\*b a*b",
            "a[\\]]b a]b",
            "f[!1-2] f1",
            "a?b a☺b",
            "a[^a]b a☺b",
            "arr[[]0].txt arr[0].txt",
            "[a-ζ]* α",
            "*x xxx",
            "** a",
        ];
        let no = [
            "ab[e-g] abc",
            "ab[^c] abc",
            "a??b a☺b",
            "a b",
            "[]a] ]",
            "[-] -",
            "[x-] x",
            "[-x] x",
            "[a-b-c] a",
            "[ a",
            "[^ a",
            "a[ a",
            "a[ ab",
            "*x xxa",
            "a\\ a",
        ];
        for (cases, expected) in [(yes.as_slice(), true), (&no, false)] {
            for case in cases {
                let (pattern, name) = case.split_once(' ').unwrap();
                assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{case}");
            }
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches("a*".repeat(50).as_bytes(), "a".repeat(49).as_bytes()));
        assert!(!matches([&b"*a".repeat(40)[..], b"b"].concat().as_slice(), &b"a".repeat(5000)));
    }
}
