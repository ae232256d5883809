//! One JSON object a line on standard error, for machines. `rbuild help progress` documents the fields:
//! `event` (declared, started, cached, output, moved, note, finished, failed, built), `step`, and what belongs to the event.

use std::io::Write;

use serde_json::json;

use crate::build::{Event, OutputStream, Progress};

/// Writes JSON lines.
pub struct RawJson;

impl Progress for RawJson {
    fn event(&self, event: Event<'_>) {
        let line = line(&event, &jiff::Timestamp::now().to_string());
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

fn line(event: &Event<'_>, time: &str) -> serde_json::Value {
    match event {
        Event::Declared { step, name, inputs } => json!({"time": time, "event": "declared", "step": step, "name": name, "inputs": inputs}),
        Event::Started { step } => json!({"time": time, "event": "started", "step": step}),
        Event::Cached { step } => json!({"time": time, "event": "cached", "step": step}),
        Event::Output { step, stream, bytes } => {
            let stream = if *stream == OutputStream::Stdout { 1 } else { 2 };
            json!({"time": time, "event": "output", "step": step, "stream": stream, "text": String::from_utf8_lossy(bytes)})
        }
        Event::Moved { step, what, done_bytes, total_bytes } => {
            json!({"time": time, "event": "moved", "step": step, "what": what, "done_bytes": done_bytes, "total_bytes": total_bytes})
        }
        Event::Note { step, text } => json!({"time": time, "event": "note", "step": step, "text": text}),
        Event::Finished { step, duration } => json!({"time": time, "event": "finished", "step": step, "seconds": duration.as_secs_f64()}),
        Event::Failed { step, error, duration } => {
            json!({"time": time, "event": "failed", "step": step, "error": error, "seconds": duration.as_secs_f64()})
        }
    }
}

/// The last line of a build that went well.
pub fn summary(built: &super::Built) -> std::io::Result<()> {
    let time = jiff::Timestamp::now().to_string();
    let line = json!({
        "time": time, "event": "built", "digest": built.digest, "names": built.names, "size_bytes": built.size_bytes, "layers": built.layers,
    });
    writeln!(std::io::stderr().lock(), "{line}")
}
