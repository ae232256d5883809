//! Builds a directory's Dockerfile into a store and gives the image a name there.
//!
//!     cargo run --example build -- STORE NAME CONTEXT

use std::{path::PathBuf, sync::Arc};

use rbuild::{
    build::{self, ContextSource, Request, Services, Silent, SourceOptions},
    export::{self, ImageOptions},
    plan::Options,
    registry::{Client, ClientOptions, Configuration},
    sandbox,
    store::Store,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The program starts itself again as the first process of each RUN: this must be the first thing it does.
    sandbox::init_if_asked();
    let [store, name, context] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "usage: build STORE NAME CONTEXT")?;
    let context = PathBuf::from(context);
    let request = Request {
        dockerfile: std::fs::read_to_string(context.join("Dockerfile"))?,
        dockerfile_name: "Dockerfile".to_owned(),
        plans: vec![Options::default()],
        context: ContextSource::Directory { path: context, ignore: None },
        ..Request::default()
    };
    // While there is one thread: a user namespace can't be entered by more.
    let entered = sandbox::enter(&sandbox::Options::default())?;
    let client = Client::new(Configuration::default(), ClientOptions::default());
    let services = Services::new(Store::open(store.as_ref())?, client, &entered, SourceOptions::default())?;
    let store = services.store.clone();
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(build::build(request, services, Arc::new(Silent))).map_err(|error| build::chain(&error))?;
    let images: Vec<_> = outcome.platforms.into_iter().map(|platform| platform.image).collect();
    let descriptor = export::write_image(&store, &images, &ImageOptions::default())?;
    store.tag(&name.parse()?, &descriptor)?;
    println!("{name}@{}", descriptor.digest);
    Ok(())
}
