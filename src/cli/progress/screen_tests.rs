//! Tests of the screen.

use super::*;
use crate::build::OutputStream;

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A screen with steps of these names, declared at time 0.
fn screen(names: &[&str]) -> Screen {
    let mut screen = Screen::default();
    for (index, name) in names.iter().enumerate() {
        screen.event(&Event::Declared { step: StepId(index + 1), name, inputs: &[] }, ms(0));
    }
    screen
}

fn output(step: usize, bytes: &[u8]) -> Event<'_> {
    Event::Output { step: StepId(step), stream: OutputStream::Stdout, bytes }
}

fn moved(what: &str, done_bytes: u64, total_bytes: Option<u64>) -> Event<'_> {
    Event::Moved { step: StepId(1), what, done_bytes, total_bytes }
}

#[test]
fn a_running_step_is_one_line_with_its_last_words_and_time() {
    let mut screen = screen(&["[1/2] RUN make", "[2/2] RUN make test"]);
    screen.event(&Event::Started { step: StepId(1) }, ms(0));
    screen.event(&output(1, b"cc a.c\ncc b.c\ncc unfinish"), ms(500));
    assert_eq!(
        screen.live(60, 24, ms(2300)),
        ["▸ [1/2] RUN make  cc b.c                               2.3s", "  0 of 2 steps                                         2.3s"]
    );
}

#[test]
fn what_is_over_folds_to_one_line_and_leaves_the_live_part() {
    let mut screen = screen(&["[1/2] RUN make", "[2/2] COPY . ."]);
    screen.event(&Event::Started { step: StepId(1) }, ms(0));
    screen.event(&Event::Finished { step: StepId(1), duration: ms(61_000) }, ms(61_000));
    screen.event(&Event::Cached { step: StepId(2) }, ms(61_000));
    assert_eq!(
        screen.take_over(40, ms(61_000), false),
        ["✓ [1/2] RUN make                  1m01s", "✓ [2/2] COPY . .                 cached"]
    );
    assert!(screen.take_over(40, ms(61_000), false).is_empty());
    assert_eq!(screen.live(40, 24, ms(61_000)), ["  2 of 2 steps                    1m01s"]);
}

#[test]
fn pulls_have_one_bar_with_bytes_and_rate() {
    let mut screen = screen(&["[1/1] FROM node"]);
    screen.event(&Event::Cached { step: StepId(1) }, ms(0));
    screen.take_over(100, ms(0), false);
    screen.event(&moved("a", 0, Some(4_000_000)), ms(0));
    screen.event(&moved("b", 0, Some(4_000_000)), ms(0));
    screen.event(&moved("a", 4_000_000, Some(4_000_000)), ms(1000));
    let line = screen.live(80, 24, ms(1000)).remove(0);
    assert!(line.starts_with("▸ [1/1] FROM node   "), "{line}");
    assert!(line.ends_with(" ━━━━━━───────  4.00MB / 8.00MB 4.00MB/s  1.0s"), "{line}");
    screen.event(&moved("b", 4_000_000, Some(4_000_000)), ms(2000));
    assert!(screen.take_over(40, ms(2100), false).is_empty(), "another blob may follow");
    assert_eq!(screen.take_over(40, ms(2400), false), ["✓ [1/1] FROM node          8.00MB  2.0s"]);
}

#[test]
fn a_base_has_one_line_pulled_or_not() {
    let mut screen = screen(&["[1/3] FROM node", "[2/3] COPY a /", "[3/3] RUN x"]);
    screen.event(&Event::Finished { step: StepId(1), duration: ms(0) }, ms(0));
    screen.event(&Event::Finished { step: StepId(2), duration: ms(10) }, ms(10));
    assert!(screen.take_over(40, ms(100), false).is_empty(), "the pull may begin yet");
    assert_eq!(
        screen.take_over(40, ms(300), false),
        ["✓ [1/3] FROM node                  0.0s", "✓ [2/3] COPY a /                   0.0s"]
    );
    screen.event(&Event::Finished { step: StepId(1), duration: ms(0) }, ms(400));
    screen.event(&Event::Finished { step: StepId(3), duration: ms(100) }, ms(400));
    screen.event(&moved("a", 0, Some(4_000_000)), ms(500));
    assert_eq!(screen.take_over(40, ms(500), false), ["✓ [3/3] RUN x                      0.1s"]);
    screen.event(&moved("a", 4_000_000, Some(4_000_000)), ms(1500));
    assert_eq!(screen.take_over(40, ms(1500), true), ["✓ [1/3] FROM node          4.00MB  1.0s"]);
}

#[test]
fn digests_are_short() {
    assert_eq!(one_line("[1/1] FROM a@sha256:0123456789abcdef0123 AS x\nmore"), "[1/1] FROM a@sha256:0123456789ab… AS x");
    assert_eq!(one_line("[1/1] FROM a@sha256:01é"), "[1/1] FROM a@sha256:01é");
}

#[test]
fn more_steps_than_rows_are_counted() {
    let mut screen = screen(&["a", "b", "c", "d", "e"]);
    (1..=5).for_each(|id| screen.event(&Event::Started { step: StepId(id) }, ms(0)));
    let lines = screen.live(40, 4, ms(1000));
    assert_eq!(lines.len(), 3);
    assert!(lines[2].starts_with("  0 of 5 steps, 3 more running"), "{}", lines[2]);
}

#[test]
fn no_line_is_wider_than_the_terminal_whatever_its_width() {
    let mut screen = screen(&["[builder 1/2] RUN npm ci --no-audit && 日本語日本語日本語日本語 --loglevel=error", "x"]);
    screen.colour = true;
    screen.event(&Event::Started { step: StepId(1) }, ms(0));
    screen.event(&output(1, "äöü 日本語 \u{1b}[31mred\u{1b}[0m and a line that goes on and on and on and on\n".as_bytes()), ms(0));
    screen.event(&Event::Moved { step: StepId(2), what: "pull", done_bytes: 5_000_000, total_bytes: Some(70_000_000) }, ms(0));
    screen.event(&Event::Note { step: Some(StepId(1)), text: "waiting for another build that runs this step" }, ms(0));
    for columns in 1..200 {
        let lines = screen.live(columns, 24, ms(125_000));
        assert!(lines.iter().all(|line| shown_width(line) < columns.max(2)), "{columns}: {lines:?}");
    }
    assert!(screen.take_over(30, ms(0), false).iter().all(|line| shown_width(line) < 30));
}

#[test]
fn output_floods_keep_little() {
    let mut screen = screen(&["a"]);
    screen.event(&Event::Started { step: StepId(1) }, ms(0));
    screen.event(&output(1, &vec![b'x'; 1 << 20]), ms(0));
    assert!(screen.steps[&StepId(1)].partial.len() <= PARTIAL_BYTES);
}

#[test]
fn the_last_words_do_not_steer_the_terminal() {
    let mut screen = screen(&["a\u{1b}[2Jb"]);
    screen.event(&Event::Started { step: StepId(1) }, ms(0));
    screen.event(&output(1, b"\x1b]0;owned\x07\x1b[1Aup\n"), ms(0));
    let shown = screen.live(60, 24, ms(0)).join("\n");
    assert!(!shown.contains('\u{1b}') && shown.contains("ab  up"), "{shown:?}");
}
