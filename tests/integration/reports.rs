//! `rbuild report` and `rbuild logs`: a build as a page, as text, as JSON, and whole output.

use std::fs;

use crate::support::{Bed, Outcome};

fn json(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

const TWO_STAGES: &str = "FROM alpine AS slow\nRUN sleep 0.6; echo a > /a\nFROM alpine AS quick\nRUN echo b > /b\n\
                          FROM alpine\nCOPY --from=slow /a /\nCOPY --from=quick /b /\nRUN head -c 300000 /dev/zero > /big\nRUN rm /big\n";

#[test]
fn a_report_has_the_critical_path_the_reasons_and_the_wasted_bytes() {
    for bed in Bed::each_user() {
        bed.dockerfile(TWO_STAGES);
        bed.build(&["-t", "app"]).succeeds();
        let report = json(bed.run(&["report", "--json"]).succeeds());
        let steps = report["report"]["steps"].as_array().unwrap();
        let names: Vec<&str> = report["critical"].as_array().unwrap().iter().map(|number| name_of(steps, number)).collect();
        assert!(names.iter().any(|name| name.contains("sleep 0.6")) && !names.iter().any(|name| name.contains("echo b")), "{names:?}");
        assert!(names.last().is_some_and(|name| name.contains("rm /big")), "{names:?}");
        let spent = report["critical_ms"].as_u64().unwrap();
        assert!((600..=report["report"]["duration_ms"].as_u64().unwrap()).contains(&spent), "{spent}");
        let wasted: Vec<u64> = report["layers"].as_array().unwrap().iter().map(|layer| layer["wasted_bytes"].as_u64().unwrap()).collect();
        assert_eq!(&wasted[wasted.len() - 4..], [0, 0, 300_000, 0]);
        let text = bed.run(&["report"]);
        text.succeeds().says("* on the critical path").says("300.00kB  layer 5: /big  (300.00kB wasted)").says("wasted").says("rung ");

        let page = bed.path("out/page.html");
        bed.run(&["report", "--html", page.to_str().unwrap()]).succeeds();
        let page = fs::read_to_string(page).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("sleep 0.6"));
        // Nothing is loaded from anywhere, and no text of a build ends its element.
        assert!(!page.contains("src=") && !page.contains("<link") && page.matches("</script>").count() == 2, "{page}");

        bed.build(&["-t", "app"]).succeeds();
        let again = json(bed.run(&["report", "--json"]).succeeds());
        assert_eq!(again["critical"].as_array().unwrap().len(), 0, "{again}");
        assert_eq!(again["why"].as_object().unwrap().len(), 0, "{again}");
    }
}

fn name_of<'a>(steps: &'a [serde_json::Value], number: &serde_json::Value) -> &'a str {
    steps.iter().find(|step| step["step"] == *number).and_then(|step| step["name"].as_str()).unwrap_or_default()
}

#[test]
fn a_hostile_name_stays_text_in_the_page() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN echo '</script><script>alert(1)</script>' && exit 9\n");
    bed.build(&[]).fails_with(1);
    let page = bed.run(&["report", "--html", "-"]);
    assert_eq!(page.succeeds().out.matches("</script>").count(), 2);
    page.says("\\u003c/script>");
    bed.run(&["report"]).succeeds().says("failed");
}

#[test]
fn logs_are_whole_by_build_and_by_step() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN seq 1 400000; echo to stderr >&2\nRUN echo other\n");
    bed.build(&[]).succeeds();
    let expected: String = (1..=400_000).map(|number| format!("{number}\n")).collect::<String>() + "to stderr\n";
    let log = bed.run(&["logs", "seq"]);
    assert!(log.succeeds().out == expected, "{} bytes instead of {}", log.out.len(), expected.len());
    bed.run(&["logs"]).succeeds().says("RUN seq").says("other");
    let id = bed.run(&["logs", "--list"]).out.split_whitespace().next().unwrap().to_owned();
    bed.run(&["logs", &id, "3"]).succeeds().says("other").does_not_say("to stderr");
    bed.run(&["logs", &id, "no such step"]).fails().says("has no step");
}
