//! Reads a Dockerfile and prints its stages and instructions, or what is wrong with it.
//!
//!     cargo run --example parse -- examples/node-app/app/Dockerfile

use rbuild::dockerfile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "Dockerfile".to_owned());
    let text = std::fs::read_to_string(&path)?;
    let file = match dockerfile::parse(&text) {
        Ok(file) => file,
        Err(fault) => {
            let line = fault.span.map_or(1, |span| dockerfile::position::line_of(&text, span.start));
            return Err(format!("{path}:{line}: {}", fault.message).into());
        }
    };
    for stage in &file.stages {
        println!("FROM {}", &text[stage.span.start..stage.span.end].lines().next().unwrap_or_default().trim_start_matches("FROM "));
        for instruction in &stage.instructions {
            let line = dockerfile::position::line_of(&text, instruction.span.start);
            let source = &text[instruction.span.start..instruction.span.end];
            println!("{line:>4}  {}", source.lines().next().unwrap_or_default());
        }
    }
    Ok(())
}
