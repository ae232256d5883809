//! Where the stages of a graph stand in its picture: columns from left to right by what they need, so that files only ever
//! go to the right; an arrow that passes a column gets a lane of its own through it. Pure arithmetic.

use std::collections::BTreeMap;

use super::Graph;

/// Sizes in pixels.
pub const ROW: f64 = 28.0;
/// Between two rows.
pub const ROW_GAP: f64 = 8.0;
/// Of a stage's name above its rows.
pub const TITLE: f64 = 34.0;
/// Around the rows of a stage.
pub const PADDING: f64 = 12.0;
/// Between columns: arrows bend here.
pub const GUTTER: f64 = 76.0;
const BOX_GAP: f64 = 26.0;
const LANE: f64 = 12.0;

/// A stage with at least one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Index in [`Graph::stages`].
    pub stage: usize,
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
    /// The steps in it, in order.
    pub steps: Vec<usize>,
}

/// An arrow: its corner points from left to right.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrow {
    /// From this step.
    pub from: usize,
    /// To this one.
    pub to: usize,
    /// Pairs of points: bends run between pairs, lanes inside them.
    pub points: Vec<(f64, f64)>,
}

/// A picture's geometry.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Stages.
    pub boxes: Vec<Placed>,
    /// Arrows between stages.
    pub arrows: Vec<Arrow>,
    /// Of all.
    pub width: f64,
    /// Of all.
    pub height: f64,
}

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Box(usize),
    Lane(usize),
}

/// Lays a graph out; `width_of` says how wide a stage must be.
pub fn layout(graph: &Graph, width_of: impl Fn(&[usize]) -> f64) -> Layout {
    let mut boxes = boxes(graph, width_of);
    let home: BTreeMap<usize, usize> =
        boxes.iter().enumerate().flat_map(|(index, placed)| placed.steps.iter().map(move |step| (*step, index))).collect();
    let links = links(graph, &home);
    let columns = columns(&boxes, &links, &home);
    let last = columns.iter().max().copied().unwrap_or(0);
    let mut items: Vec<Vec<Item>> = vec![Vec::new(); last + 1];
    for (index, column) in columns.iter().enumerate() {
        items[*column].push(Item::Box(index));
    }
    for (index, (from, to)) in links.iter().enumerate() {
        (columns[home[from]] + 1..columns[home[to]]).for_each(|column| items[column].push(Item::Lane(index)));
    }
    // Left edges: a column is as wide as its widest stage.
    let mut edges = vec![0.0];
    for column in 0..=last {
        let widest = boxes.iter().zip(&columns).filter(|(_, at)| **at == column).map(|(placed, _)| placed.width).fold(0.0, f64::max);
        edges.push(edges[column] + widest + GUTTER);
    }
    for (placed, column) in boxes.iter_mut().zip(&columns) {
        placed.x = edges[*column];
        placed.width = edges[column + 1] - edges[*column] - GUTTER;
    }
    let lanes = stack(&mut boxes, &items, &links, &home);
    let arrows = links.iter().enumerate().map(|(index, (from, to))| {
        let (source, goal) = (&boxes[home[from]], &boxes[home[to]]);
        let mut points = vec![(source.x + source.width - PADDING, row_middle(source, *from))];
        for column in columns[home[from]] + 1..columns[home[to]] {
            let y = lanes[&(index, column)];
            points.extend([(edges[column], y), (edges[column + 1] - GUTTER, y)]);
        }
        points.push((goal.x + PADDING, row_middle(goal, *to)));
        Arrow { from: *from, to: *to, points }
    });
    let arrows = arrows.collect();
    let height = boxes.iter().map(|placed| placed.y + placed.height).chain(lanes.values().copied()).fold(0.0, f64::max);
    Layout { boxes, arrows, width: edges[last + 1] - GUTTER, height }
}

/// The middle of a step's row.
pub fn row_middle(placed: &Placed, step: usize) -> f64 {
    let index = placed.steps.iter().position(|own| *own == step).unwrap_or(0);
    placed.y + TITLE + index as f64 * (ROW + ROW_GAP) + ROW / 2.0
}

fn boxes(graph: &Graph, width_of: impl Fn(&[usize]) -> f64) -> Vec<Placed> {
    let mut list = Vec::new();
    for (stage, known) in graph.stages.iter().enumerate() {
        let steps: Vec<usize> = graph.steps_of(known).map(|step| step.step).collect();
        if steps.is_empty() {
            continue;
        }
        let height = TITLE + steps.len() as f64 * (ROW + ROW_GAP) - ROW_GAP + PADDING;
        list.push(Placed { stage, x: 0.0, y: 0.0, width: width_of(&steps), height, steps });
    }
    list
}

/// Steps that take something of a step in another stage.
fn links(graph: &Graph, home: &BTreeMap<usize, usize>) -> Vec<(usize, usize)> {
    let pairs = graph.steps.iter().flat_map(|step| step.parent.iter().chain(&step.takes_from).map(move |from| (*from, step.step)));
    pairs.filter(|(from, to)| home.contains_key(from) && home.contains_key(to) && home[from] != home[to]).collect()
}

/// The longest way to each stage from those that need nothing.
fn columns(boxes: &[Placed], links: &[(usize, usize)], home: &BTreeMap<usize, usize>) -> Vec<usize> {
    let mut columns = vec![0; boxes.len()];
    // Steps are in an order in which they can be done, and so are links by their ends.
    let mut ordered = links.to_vec();
    ordered.sort_by_key(|(_, to)| *to);
    for _ in 0..boxes.len() {
        for (from, to) in &ordered {
            let (from, to) = (home[from], home[to]);
            columns[to] = columns[to].max((columns[from] + 1).min(boxes.len()));
        }
    }
    columns
}

/// Heights: each column from top to bottom in the order of where its arrows come from, each stage beside its source where
/// there is room. Gives the lanes' heights by arrow and column.
fn stack(
    boxes: &mut [Placed],
    items: &[Vec<Item>],
    links: &[(usize, usize)],
    home: &BTreeMap<usize, usize>,
) -> BTreeMap<(usize, usize), f64> {
    let mut lanes: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (column, own) in items.iter().enumerate() {
        let source = |link: usize, boxes: &[Placed], lanes: &BTreeMap<(usize, usize), f64>| {
            let before = column.checked_sub(1).and_then(|before| lanes.get(&(link, before)).copied());
            before.unwrap_or_else(|| row_middle(&boxes[home[&links[link].0]], links[link].0))
        };
        // Where each item would like its upper edge to be.
        let mut wishes: Vec<(f64, Item)> = Vec::new();
        for item in own {
            let wish = match item {
                Item::Lane(link) => source(*link, boxes, &lanes) - LANE / 2.0,
                Item::Box(index) => {
                    let arrows = links.iter().enumerate().filter(|(_, (_, to))| home[to] == *index);
                    let offsets: Vec<f64> = arrows
                        .map(|(link, (_, to))| source(link, boxes, &lanes) - (row_middle(&boxes[*index], *to) - boxes[*index].y))
                        .collect();
                    if offsets.is_empty() { 0.0 } else { offsets.iter().sum::<f64>() / offsets.len() as f64 }
                }
            };
            wishes.push((wish, *item));
        }
        wishes.sort_by(|left, right| left.0.total_cmp(&right.0));
        let mut free = 0.0_f64;
        for (wish, item) in wishes {
            let y = wish.max(free);
            match item {
                Item::Lane(link) => {
                    lanes.insert((link, column), y + LANE / 2.0);
                    free = y + LANE;
                }
                Item::Box(index) => {
                    boxes[index].y = y;
                    free = y + boxes[index].height + BOX_GAP;
                }
            }
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{build::Prospect, cli::plan::Step};

    fn overlap(left: &Placed, right: &Placed) -> bool {
        left.x < right.x + right.width && right.x < left.x + left.width && left.y < right.y + right.height && right.y < left.y + left.height
    }

    /// Many stages that need each other in all ways.
    fn tangle() -> Graph {
        let mut graph = super::super::tests::example();
        let stage = graph.stages[0].clone();
        graph.stages = (0..9).map(|index| crate::cli::plan::Stage { name: format!("s{index}"), ..stage.clone() }).collect();
        graph.steps = Vec::new();
        for index in 0..9_usize {
            for row in 0..=index % 3 {
                let number = graph.steps.len() + 1;
                let takes_from = graph.steps.iter().filter(|step: &&Step| (step.step * 7 + number).is_multiple_of(5)).map(|step| step.step);
                let takes_from = takes_from.filter(|from| graph.steps[from - 1].stage != format!("s{index}")).collect();
                let parent = (row > 0).then_some(number - 1);
                graph.steps.push(Step {
                    step: number,
                    stage: format!("s{index}"),
                    text: "RUN x".into(),
                    line: 1,
                    parent,
                    takes_from,
                    contexts: Vec::new(),
                    state: Prospect::Runs,
                });
            }
        }
        graph
    }

    #[test]
    fn stages_never_overlap_and_arrows_go_right() {
        let found = layout(&tangle(), |_| 200.0);
        for (index, one) in found.boxes.iter().enumerate() {
            assert!(found.boxes[index + 1..].iter().all(|other| !overlap(one, other)), "{one:?}");
        }
        for arrow in &found.arrows {
            assert!(arrow.points.windows(2).all(|pair| pair[0].0 < pair[1].0), "{arrow:?}");
        }
        assert!(found.arrows.len() > 5);
    }

    #[test]
    fn no_arrow_runs_through_a_stage_that_it_passes() {
        let found = layout(&tangle(), |_| 200.0);
        for arrow in &found.arrows {
            // Between the points of a pair the arrow is level; the first and the last point are at its ends.
            for pair in arrow.points[1..arrow.points.len() - 1].chunks(2) {
                let [(left, y), (right, _)] = pair else { panic!("a lane has two ends") };
                let crossed = found
                    .boxes
                    .iter()
                    .find(|placed| placed.x < *right && *left < placed.x + placed.width && placed.y < *y && *y < placed.y + placed.height);
                assert_eq!(crossed, None, "{arrow:?}");
            }
        }
    }
}
