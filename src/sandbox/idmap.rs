//! Which ids a user namespace gets.
//! Unaware of how maps are written.

/// One line of a map: `count` ids from `inside` on mean the ids from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// All ids that we have ourselves, each as itself: what root can give.
pub fn identity(current: &str) -> Vec<Range> {
    let lines = current.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let (inside, _outside, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let _: u32 = _outside;
        Some(Range { inside, outside: inside, count })
    });
    lines.collect()
}

/// Ourselves as 0, then the delegated ranges in the order of the file.
pub fn delegated(own: u32, ranges: &[(u32, u32)]) -> Vec<Range> {
    let mut map = vec![Range { inside: 0, outside: own, count: 1 }];
    let mut next = 1u32;
    for (start, count) in ranges {
        let count = (*count).min(u32::MAX - next);
        map.push(Range { inside: next, outside: *start, count });
        next += count;
    }
    map
}

/// The ranges that /etc/subuid or /etc/subgid gives to a user.
pub fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (Some(owner) == name || owner == uid).then_some((start, count)).filter(|(_, count)| *count > 0)
    });
    lines.collect()
}

/// The text that the kernel wants in uid_map.
pub fn to_text(map: &[Range]) -> String {
    map.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

/// How many ids a map gives.
pub fn size(map: &[Range]) -> u64 {
    map.iter().map(|range| u64::from(range.count)).sum()
}

/// The highest id that is mapped with all below it; None for an empty map.
pub fn highest(map: &[Range]) -> Option<u32> {
    let mut sorted = map.to_vec();
    sorted.sort_by_key(|range| range.inside);
    let mut next = 0u64;
    for range in sorted.iter().take_while(|range| range.count > 0) {
        if u64::from(range.inside) != next {
            break;
        }
        next += u64::from(range.count);
    }
    next.checked_sub(1).map(|id| id.min(u32::MAX.into()) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_hands_on_what_it_has() {
        assert_eq!(to_text(&identity("         0          0 4294967295\n")), "0 0 4294967295\n");
        assert_eq!(to_text(&identity("0 1000 1\n1 100000 65536\n")), "0 0 1\n1 1 65536\n");
    }

    #[test]
    fn delegated_ranges_follow_ourselves_without_gaps() {
        let text = "other:1:5\nme:100000:65536\n1000:300000:10\nme:bad\nme:7:0\n";
        let ranges = subordinate(text, Some("me"), 1000);
        assert_eq!(ranges, [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(to_text(&delegated(1000, &ranges)), "0 1000 1\n1 100000 65536\n65537 300000 10\n");
        assert_eq!(size(&delegated(1000, &ranges)), 65_547);
        assert_eq!(highest(&delegated(1000, &ranges)), Some(65_546));
        assert_eq!(highest(&[]), None);
    }
}
