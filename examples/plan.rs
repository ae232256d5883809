//! Prints the build graph of a Dockerfile's last stage. Planning is pure: base images are given, none is pulled, nothing runs.
//!
//!     cargo run --example plan -- examples/node-app/app/Dockerfile

use rbuild::{
    dockerfile,
    oci::{Digest, Image, ImageConfig},
    plan::{self, Base, Bases, Options},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "Dockerfile".to_owned());
    let file = dockerfile::parse(&std::fs::read_to_string(&path)?).map_err(|fault| fault.message)?;
    let options = Options::default();
    let mut bases = Bases::default();
    // Triggers of ONBUILD in a base may ask for more bases, hence a loop. A real caller asks a registry here.
    loop {
        let missing = plan::missing_bases(&file, &options, &bases).map_err(|fault| fault.message)?;
        if missing.is_empty() {
            break;
        }
        for key in missing.into_keys() {
            println!("base {key}");
            let image = Image { platform: options.target_platform.clone(), config: ImageConfig::default(), layers: Vec::new() };
            bases.insert(key, Base { image, digest: Digest::of(b"") });
        }
    }
    let plan = plan::lower(&file, &options, &bases).map_err(|fault| fault.message)?;
    for vertex in &plan.vertices {
        println!("{}", vertex.name);
    }
    Ok(())
}
