//! `rbuild doctor`: every gate that a build meets, how it was found, and what would open it.

use std::{io::Write, process::ExitCode};

use clap::Args;

use crate::{
    cli::{args::Cli, environment, failure::Failure, services},
    sandbox::{self, Findings, Gate, Outcome, ProbeOptions},
};

/// `rbuild doctor`. The exit code is 0 where a Dockerfile with RUN can be built.
#[derive(Debug, Args, Clone)]
pub struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Probes and tells.
pub fn doctor(cli: &Cli, args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let options = ProbeOptions {
        store: environment::store_root(cli.store.as_ref())?,
        search_path: environment::search_path(),
        rung: services::rung(cli)?,
        runner: environment::runner(),
    };
    let findings = sandbox::probe(&options);
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&findings).expect("plain data has a JSON form")),
        false => report(&findings),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if can_run(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a RUN has a rung to stand on.
fn can_run(findings: &Findings) -> bool {
    let is_closed = |name: &str| findings.gates.iter().any(|gate| gate.name == name && gate.outcome == Outcome::Closed);
    match findings.rung.as_deref() {
        None | Some("copy") => false,
        Some("chroot") => !is_closed("devices"),
        Some(_) => true,
    }
}

fn report(findings: &Findings) -> String {
    let width = findings.gates.iter().map(|gate| gate.name.len()).max().unwrap_or(0);
    let mut text: String = findings.gates.iter().map(|gate| line(gate, width)).collect();
    text.push_str(&format!("\nrung: {}\n", verdict(findings)));
    if let Some(fix) = findings.obstacle.as_ref().and_then(|gate| gate.fix.as_ref()) {
        text.push_str(&format!("for a higher one: {fix}\n"));
    }
    text
}

/// What was tried, what the kernel said, what it means; the fix on a line of its own, to be copied.
fn line(gate: &Gate, width: usize) -> String {
    let mark = match gate.outcome {
        Outcome::Open => "ok ",
        Outcome::Detour => "-  ",
        Outcome::Closed => "NO ",
    };
    let Gate { name, tried, said, meaning, .. } = gate;
    let fix = gate.fix.as_ref().map(|fix| format!("    {:width$} fix: {fix}\n", "")).unwrap_or_default();
    format!("{mark} {name:width$} {tried}: {said}: {meaning}\n{fix}")
}

fn verdict(findings: &Findings) -> String {
    let Some(rung) = &findings.rung else {
        return format!("none ({})", findings.reason.as_deref().unwrap_or("no reason known"));
    };
    let meaning = match rung.as_str() {
        "full" => "everything works",
        "single" => "everything works; owners and ids are emulated",
        "chroot" if can_run(findings) => {
            "everything works, without namespaces: no network of its own, and what a step writes to a bind is thrown away"
        }
        "chroot" => "steps cannot run: see `devices`",
        _ => "only stages without RUN can be built",
    };
    let reason = findings.reason.as_ref().map(|reason| format!(" (not higher: {reason})")).unwrap_or_default();
    format!("{rung}: {meaning}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(name: &str, outcome: Outcome, fix: Option<&str>) -> Gate {
        let text = |text: &str| text.to_owned();
        Gate { name: text(name), tried: text("try"), outcome, said: text("EPERM"), meaning: text("no RUN"), fix: fix.map(text) }
    }

    #[test]
    fn the_verdict_says_what_to_do_for_a_higher_rung() {
        let gates = vec![gate("userns", Outcome::Closed, Some("sysctl -w x=1")), gate("disk", Outcome::Open, None)];
        let findings = Findings { rung: Some("copy".into()), reason: Some("EPERM".into()), obstacle: Some(gates[0].clone()), gates };
        let text = report(&findings);
        assert!(text.starts_with("NO  userns try: EPERM: no RUN\n           fix: sysctl -w x=1\nok  disk   try"), "{text}");
        assert!(
            text.ends_with("rung: copy: only stages without RUN can be built (not higher: EPERM)\nfor a higher one: sysctl -w x=1\n"),
            "{text}"
        );
        assert!(!can_run(&findings));
    }

    #[test]
    fn a_chroot_without_devices_runs_nothing() {
        let findings =
            |outcome| Findings { rung: Some("chroot".into()), reason: None, obstacle: None, gates: vec![gate("devices", outcome, None)] };
        assert!(can_run(&findings(Outcome::Open)) && !can_run(&findings(Outcome::Closed)));
    }
}
