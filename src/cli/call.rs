//! `--call` and `--check`: what can be said of a Dockerfile without building it, as text or JSON.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::{
    build::{self, BuildError, Progress, Request, Services},
    cli::{args::BuildArgs, failure::Failure, lint},
    dockerfile::{
        self, Dockerfile,
        lint::Report,
        outline::{outline, targets},
        position::line_of,
        redact::{blot, redact_url},
    },
    plan,
};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// To build.
    Build,
    /// What is unwise.
    Check,
    /// What the target takes.
    Outline,
    /// Which stages there are.
    Targets,
}

/// `--call=METHOD[,format=json]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What is asked.
    pub method: Method,
    json: bool,
}

impl Call {
    /// What the arguments say.
    pub fn of(args: &BuildArgs) -> Result<Self, Failure> {
        let mut fields = args.call.split(',');
        let name = fields.next().unwrap_or_default().to_lowercase();
        let method = match name.as_str() {
            "" | "build" if args.check => Method::Check,
            "" | "build" => Method::Build,
            "check" | "lint" => Method::Check,
            other if args.check => return Err(Failure::usage(format!("--check and --call={other} ask different things"))),
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            other => {
                let known = ["build", "check", "outline", "targets"].map(str::to_owned);
                let near = dockerfile::suggest::nearest(other, &known).map(|near| format!("did you mean {near}?"));
                let hint = near.unwrap_or_else(|| "build, check, outline or targets".to_owned());
                return Err(Failure::usage(format!("--call={other} is unknown")).with_hint(hint));
            }
        };
        let mut json = false;
        for field in fields {
            match field.split_once('=') {
                Some(("format", "json")) => json = true,
                Some(("format", "text")) | Some(("ignorestatus", _)) => {}
                _ => return Err(Failure::usage(format!("--call: unexpected `{field}`")).with_hint("format=json or format=text")),
            }
        }
        Ok(Self { method, json })
    }

    /// Prints the answer.
    pub async fn answer(&self, request: &Request, services: &Services, progress: &Arc<dyn Progress>) -> Result<ExitCode, Failure> {
        if self.method == Method::Check {
            let (report, error) = build::check(request, services, progress).await;
            return self.print_report(request, &report, error.as_ref());
        }
        let file = dockerfile::parse(&request.dockerfile).map_err(|fault| in_dockerfile(request, &BuildError::from(fault)))?;
        let (text, value) = match self.method {
            Method::Targets => both(&targets(&file, &blot(&request.dockerfile)))?,
            _ => self.outline(request, &file)?,
        };
        print(if self.json { value } else { text });
        Ok(ExitCode::SUCCESS)
    }

    fn outline(&self, request: &Request, file: &Dockerfile) -> Result<(String, String), Failure> {
        let Some(options) = request.plans.first() else { return Err(Failure::new("no platform to ask for")) };
        let predefined = plan::predefined_args(file, options);
        let found = outline(file, &blot(&request.dockerfile), options.target.as_deref(), &predefined, &options.build_args);
        let found = found.map_err(|message| Failure::new(format!("{}: {message}", request.dockerfile_name)))?;
        let missing = || {
            let target = options.target.as_deref().unwrap_or_default();
            let names: Vec<String> = file.stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| name.text.clone()).collect();
            let near = dockerfile::suggest::nearest(target, &names).map(|near| format!("did you mean {near}?"));
            let hint = near.unwrap_or_else(|| format!("the stages are: {}", names.join(", ")));
            Failure::new(format!("target stage \"{target}\" could not be found")).with_hint(hint)
        };
        both(&found.ok_or_else(missing)?)
    }

    /// With an error of the file, or with violations where they count as errors, the exit code is 1.
    fn print_report(&self, request: &Request, report: &Report, error: Option<&BuildError>) -> Result<ExitCode, Failure> {
        let failed = report.error().is_some() || error.is_some();
        if self.json {
            print(serde_json::to_string_pretty(&report_json(request, report, error)).unwrap_or_default());
        } else {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let (name, text) = (&request.dockerfile_name, &request.dockerfile);
            let warnings = report.warnings.iter().map(|warning| format!("\n\n{}", lint::render(name, text, warning, colour)));
            let warnings: String = warnings.collect();
            if let Some(error) = error {
                print(warnings.trim_start());
                return Err(in_dockerfile(request, error));
            }
            print(format!("{}{warnings}", headline(report.warnings.len())));
            if let Some(message) = report.error() {
                return Err(Failure::new(message));
            }
        }
        Ok(ExitCode::from(u8::from(failed)))
    }
}

fn headline(count: usize) -> String {
    match count {
        0 => "Check complete, no warnings found.".to_owned(),
        1 => "Check complete, 1 warning has been found!".to_owned(),
        count => format!("Check complete, {count} warnings have been found!"),
    }
}

/// The form that BuildKit's `frontend.lint` answers in.
fn report_json(request: &Request, report: &Report, error: Option<&BuildError>) -> Value {
    let ranges = |first: usize, last: usize| json!({"ranges": [{"start": {"line": first}, "end": {"line": last}}]});
    let warnings: Vec<Value> = report
        .warnings
        .iter()
        .map(|warning| {
            json!({
                "ruleName": warning.rule,
                "description": warning.description,
                "url": warning.url.unwrap_or_default(),
                "detail": warning.message,
                "location": ranges(warning.line, warning.end_line),
            })
        })
        .collect();
    let data = base64::engine::general_purpose::STANDARD.encode(blot(&request.dockerfile).as_bytes());
    let mut value = json!({
        "warnings": warnings,
        "sources": [{"filename": request.dockerfile_name, "language": "Dockerfile", "data": data}],
    });
    let lint_error = report.error();
    if let Some(message) = error.map(|error| error.message.clone()).or(lint_error) {
        value["buildError"] = json!({"message": message});
        if let Some(span) = error.and_then(|error| error.span) {
            let line = line_of(&request.dockerfile, span.start);
            value["buildError"]["location"] = ranges(line, line);
        }
    }
    value
}

fn both<T: std::fmt::Display + serde::Serialize>(answer: &T) -> Result<(String, String), Failure> {
    let value = serde_json::to_string_pretty(answer).map_err(|error| Failure::new(error.to_string()))?;
    Ok((answer.to_string(), value))
}

fn in_dockerfile(request: &Request, error: &BuildError) -> Failure {
    Failure::in_dockerfile(&request.dockerfile_name, &request.dockerfile, &error.diagnostic())
}

fn print(text: impl AsRef<str>) {
    let text = redact_url(text.as_ref().trim_end());
    if !text.is_empty() {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}
