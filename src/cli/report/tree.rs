//! The files of each layer as a tree of directories with sizes, small ones put together. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::export::Listing;

/// What is smaller than this part of the image is put together with its neighbours.
const SMALLEST_SHARE: u64 = 500;

/// A directory or file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its own name.
    pub name: String,
    /// Bytes of the files below it, those that later layers hide too.
    pub size: u64,
    /// Bytes of those alone.
    #[serde(skip_serializing_if = "is_zero")]
    pub wasted: u64,
    /// Larger ones first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Default)]
struct Growing {
    size: u64,
    wasted: u64,
    children: BTreeMap<String, Growing>,
}

/// One list of top-level nodes for each layer.
pub fn trees(listing: &Listing) -> Vec<Vec<Node>> {
    let mut tops: Vec<Growing> = listing.layers.iter().map(|_| Growing::default()).collect();
    for (path, file) in listing.files.iter().filter(|(_, file)| file.size > 0) {
        tops[file.layer].add(path, file.size, 0);
    }
    for hidden in &listing.hidden {
        tops[hidden.layer].add(&hidden.path, hidden.size, hidden.size);
    }
    let all: u64 = tops.iter().map(|top| top.size).sum();
    let smallest = (all / SMALLEST_SHARE).max(1);
    tops.into_iter().map(|top| top.into_nodes(smallest)).collect()
}

impl Growing {
    fn add(&mut self, path: &[u8], size: u64, wasted: u64) {
        let mut at = self;
        (at.size, at.wasted) = (at.size + size, at.wasted + wasted);
        for name in path.split(|byte| *byte == b'/') {
            at = at.children.entry(String::from_utf8_lossy(name).into_owned()).or_default();
            (at.size, at.wasted) = (at.size + size, at.wasted + wasted);
        }
    }

    fn into_nodes(self, smallest: u64) -> Vec<Node> {
        let mut nodes = Vec::new();
        let (mut count, mut size, mut wasted) = (0, 0, 0);
        for (name, child) in self.children {
            if child.size < smallest {
                (count, size, wasted) = (count + 1, size + child.size, wasted + child.wasted);
                continue;
            }
            nodes.push(Node { name, size: child.size, wasted: child.wasted, children: child.into_nodes(smallest) });
        }
        if count > 0 {
            nodes.push(Node { name: format!("{count} smaller"), size, wasted, children: Vec::new() });
        }
        nodes.sort_by(|left, right| right.size.cmp(&left.size).then_with(|| left.name.cmp(&right.name)));
        // What is small as a whole says nothing by its parts.
        match nodes.as_slice() {
            [only] if count > 0 && only.children.is_empty() => Vec::new(),
            _ => nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up_and_small_ones_stand_together() {
        let mut top = Growing::default();
        top.add(b"usr/lib/big", 1000, 0);
        top.add(b"usr/lib/old", 500, 500);
        (0..10).for_each(|number| top.add(format!("etc/{number}").as_bytes(), 1, 0));
        top.add(b"usr/tiny", 1, 0);
        let nodes = top.into_nodes(5);
        assert_eq!(
            nodes.iter().map(|node| (node.name.as_str(), node.size, node.wasted)).collect::<Vec<_>>(),
            [("usr", 1501, 500), ("etc", 10, 0)]
        );
        let usr: Vec<_> = nodes[0].children.iter().map(|node| (node.name.as_str(), node.size)).collect();
        assert_eq!(usr, [("lib", 1500), ("1 smaller", 1)]);
        assert_eq!(nodes[1].children, []);
    }
}
