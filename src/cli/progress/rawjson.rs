//! One JSON object a line on standard error, for machines, as buildx writes it: `vertexes`, `statuses`, `logs` and `warnings`
//! of BuildKit's SolveStatus, each line with what is new. `notes` and `built` are ours. `rbuild help progress` documents them.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    build::{Event, OutputStream, Progress, StepId},
    dockerfile::lint::Warning,
    oci::Digest,
};

/// Writes JSON lines.
#[derive(Default)]
pub struct RawJson(Mutex<State>);

#[derive(Default)]
struct State {
    steps: BTreeMap<StepId, Step>,
}

#[derive(Default)]
struct Step {
    digest: String,
    name: String,
    inputs: Vec<String>,
    started: Option<String>,
    /// Since when each thing has moved.
    moved: BTreeMap<String, String>,
}

impl Progress for RawJson {
    fn event(&self, event: Event<'_>) {
        // Written under the lock: lines keep their order.
        let mut state = self.0.lock().expect("no printer panics");
        let line = state.line(&event, SystemTime::now());
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

impl State {
    fn line(&mut self, event: &Event<'_>, now: SystemTime) -> Value {
        match event {
            Event::Declared { step, name, inputs } => {
                let inputs: Vec<String> = inputs.iter().map(|input| self.step(*input).digest.clone()).collect();
                // Its identity in these lines, and nothing else: that of the definition is not known here.
                let digest = Digest::of(format!("{} {name} {}", step.0, inputs.join(" ")).as_bytes()).to_string();
                *self.step(*step) = Step { digest, name: (*name).to_owned(), inputs, ..Step::default() };
                self.vertex(*step, json!({}))
            }
            Event::Started { step } => {
                self.step(*step).started = Some(text(now));
                self.vertex(*step, json!({}))
            }
            Event::Cached { step } => {
                self.step(*step).started.get_or_insert_with(|| text(now));
                self.vertex(*step, json!({"completed": text(now), "cached": true}))
            }
            Event::Output { step, stream, bytes } => {
                let stream = if *stream == OutputStream::Stdout { 1 } else { 2 };
                let data = BASE64_STANDARD.encode(bytes);
                json!({"logs": [{"vertex": self.step(*step).digest, "stream": stream, "data": data, "timestamp": text(now)}]})
            }
            Event::Moved { step, what, done_bytes, total_bytes } => {
                let step = self.step(*step);
                let started = step.moved.entry((*what).to_owned()).or_insert_with(|| text(now)).clone();
                let mut status =
                    json!({"id": what, "vertex": step.digest, "current": done_bytes, "timestamp": text(now), "started": started});
                if let Some(total) = total_bytes {
                    status["total"] = json!(total);
                }
                if *total_bytes == Some(*done_bytes) {
                    status["completed"] = json!(text(now));
                }
                json!({"statuses": [status]})
            }
            Event::Note { step, text: note } => {
                let vertex = step.map(|step| self.step(step).digest.clone());
                json!({"notes": [{"vertex": vertex, "text": note, "timestamp": text(now)}]})
            }
            Event::Finished { step, duration } => {
                self.began(*step, now, *duration);
                self.vertex(*step, json!({"completed": text(now)}))
            }
            Event::Failed { step, error, duration } => {
                self.began(*step, now, *duration);
                self.vertex(*step, json!({"completed": text(now), "error": error}))
            }
        }
    }

    fn step(&mut self, id: StepId) -> &mut Step {
        self.steps.entry(id).or_default()
    }

    /// What ended may never have been said to begin.
    fn began(&mut self, id: StepId, now: SystemTime, duration: Duration) {
        self.step(id).started.get_or_insert_with(|| text(now - duration));
    }

    /// All that is known of a step, and `more`; what is empty is left out, as BuildKit does.
    fn vertex(&mut self, id: StepId, more: Value) -> Value {
        let step = self.step(id);
        let mut vertex = json!({"digest": step.digest, "name": step.name});
        if !step.inputs.is_empty() {
            vertex["inputs"] = json!(step.inputs);
        }
        if let Some(started) = &step.started {
            vertex["started"] = json!(started);
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            vertex[key] = value.clone();
        }
        json!({"vertexes": [vertex]})
    }
}

fn text(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

/// A line about a finding of lint.
pub fn warning(warning: &Warning, dockerfile: &str) -> Value {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let place = |line: usize| json!({"line": line});
    json!({"warnings": [{
        "level": 1,
        "short": encode(&format!("{}: {} (line {})", warning.rule, warning.message, warning.line)),
        "detail": [encode(warning.description)],
        "url": warning.url,
        "sourceInfo": {"filename": dockerfile},
        "range": [{"start": place(warning.line), "end": place(warning.end_line)}],
    }]})
}

/// The last line of a build that went well.
pub fn summary(built: &super::Built) -> std::io::Result<()> {
    let line = json!({"built": {
        "digest": built.digest, "names": built.names, "size_bytes": built.size_bytes, "layers": built.layers,
    }});
    writeln!(std::io::stderr().lock(), "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_vertex_with_its_inputs_output_and_end() {
        let mut state = State::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        state.line(&Event::Declared { step: StepId(1), name: "[1/2] FROM a", inputs: &[] }, at(0));
        let declared = state.line(&Event::Declared { step: StepId(2), name: "[2/2] RUN b", inputs: &[StepId(1)] }, at(0));
        let (first, second) = (state.steps[&StepId(1)].digest.clone(), state.steps[&StepId(2)].digest.clone());
        assert_eq!(declared, json!({"vertexes": [{"digest": second, "name": "[2/2] RUN b", "inputs": [first]}]}));
        state.line(&Event::Started { step: StepId(2) }, at(1));
        let output = state.line(&Event::Output { step: StepId(2), stream: OutputStream::Stderr, bytes: b"\xff\n" }, at(2));
        assert_eq!(output, json!({"logs": [{"vertex": second, "stream": 2, "data": "/wo=", "timestamp": "1970-01-01T00:00:02Z"}]}));
        let failed = state.line(&Event::Failed { step: StepId(2), error: "exit code: 1", duration: Duration::from_secs(2) }, at(3));
        let failed = &failed["vertexes"][0];
        assert_eq!((&failed["started"], &failed["completed"]), (&json!("1970-01-01T00:00:01Z"), &json!("1970-01-01T00:00:03Z")));
        assert_eq!(failed["error"], "exit code: 1");
    }

    #[test]
    fn what_moves_is_a_status_until_it_is_whole() {
        let mut state = State::default();
        let mut moved = |done_bytes| {
            let event = Event::Moved { step: StepId(1), what: "pull x", done_bytes, total_bytes: Some(9) };
            state.line(&event, SystemTime::UNIX_EPOCH)["statuses"][0].take()
        };
        let (first, last) = (moved(3), moved(9));
        assert_eq!((first["current"].as_u64(), first["total"].as_u64(), first.get("completed")), (Some(3), Some(9), None));
        assert!(last["completed"].is_string() && last["started"].is_string());
    }
}
