//! A build's result to where `--tag` and `--output` want it. Blobs of base layers are fetched only for outputs that hold
//! them: a push to the registry that has them moves none, and an image of the store may leave them there.

mod attest;
mod files;
mod form;
mod load;
mod metadata;
mod registry;
mod steps;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use futures_util::future::FutureExt;

pub use self::{
    files::standard_output,
    form::Form,
    metadata::Written,
    registry::{nothing_more, push},
    steps::Steps,
};
use crate::{
    build::{Layer, Outcome, Progress, Services, chain, short},
    cli::{
        annotations::{Annotation, AnnotationKind},
        attest::{Attestations, Attester},
        failure::Failure,
        outputs::{OutputKind, OutputSpec},
    },
    export::{self, LayoutOptions, Obtain},
    oci::{Descriptor, Digest, Image, Reference, media_type},
    registry::Client,
};

/// What the command line wants of a result.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `--tag`.
    pub tags: Vec<Reference>,
    /// `--output`, `--push`, `--load`.
    pub outputs: Vec<OutputSpec>,
    /// `--annotation`.
    pub annotations: Vec<Annotation>,
    /// `--build-arg`, for SOURCE_DATE_EPOCH.
    pub build_args: BTreeMap<String, String>,
    /// `--reproducible`: all times are SOURCE_DATE_EPOCH, in every output.
    pub reproducible: bool,
    /// A tag made of the digest beside each tag.
    pub tag_digest: bool,
}

impl Wanted {
    /// What can be known to be wrong before anything is built.
    pub fn check(&self) -> Result<(), Failure> {
        for output in &self.outputs {
            output.check_place()?;
            self.form(output)?;
            let names = self.names(output)?;
            self.dangling_prefix(output, &names)?;
            if output.is_pushed()? && names.is_empty() {
                return Err(
                    Failure::usage("tag is needed when pushing to registry").with_hint("-t REGISTRY/NAME[:TAG], or name=.. in --output")
                );
            }
            // `latest` is what a name without a tag has.
            let tagged = names.iter().find(|name| name.tag().is_some_and(|tag| tag != "latest"));
            if let Some(name) = tagged.filter(|_| output.flag("push-by-digest", false).unwrap_or_default()) {
                let failure = Failure::usage(format!("can't push tagged ref {} by digest", name.familiar()));
                return Err(failure.with_hint("leave the tag out of the name, or push-by-digest out of --output"));
            }
        }
        self.check_places()
    }

    /// Two outputs to one place would leave the later one, or a mixture.
    fn check_places(&self) -> Result<(), Failure> {
        let mut taken: Vec<PathBuf> = Vec::new();
        for output in &self.outputs {
            let place = match &output.dest {
                _ if output.is_to_stdout() => PathBuf::from("-"),
                Some(dest) => std::path::absolute(dest).unwrap_or_else(|_| dest.clone()),
                None => continue,
            };
            // Devices such as /dev/null take anything.
            if place.starts_with("/dev") {
                continue;
            }
            if taken.contains(&place) {
                let shown = if output.is_to_stdout() { "standard output".into() } else { place.display().to_string() };
                return Err(Failure::usage(format!("two outputs go to {shown}")).with_hint("give each a dest of its own"));
            }
            taken.push(place);
        }
        Ok(())
    }

    /// What can be known to be wrong with an image of so many platforms, which statements may put into an index.
    pub fn check_platforms(&self, count: usize, attestations: &Attestations) -> Result<(), Failure> {
        let has_index = count > 1 || attestations.in_index || attestations.are_asked_for();
        let images = self.outputs.iter().filter(|output| output.is_image());
        for form in images.map(|output| self.form(output)).chain([self.first_form()]) {
            if !has_index && !form?.annotations(AnnotationKind::Index, None).is_empty() {
                return Err(export::ExportError::IndexAnnotations.into());
            }
        }
        match self.outputs.iter().find(|output| count > 1 && output.kind == OutputKind::Docker) {
            Some(_) => Err(export::ExportError::DockerNeedsOnePlatform.into()),
            None => Ok(()),
        }
    }

    /// Whether anything goes to a registry.
    pub fn is_pushed(&self) -> Result<bool, Failure> {
        self.outputs.iter().try_fold(false, |found, output| Ok(found || output.is_pushed()?))
    }

    /// Whether anything is written as files.
    pub fn has_files(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output.kind, OutputKind::Local | OutputKind::Tar))
    }

    /// The form of the image that names in the store stand for.
    pub fn first_form(&self) -> Result<Form, Failure> {
        match self.outputs.iter().find(|output| output.is_image()) {
            Some(output) => self.form(output),
            None => self.form(&OutputSpec::of(OutputKind::Image)),
        }
    }

    fn form(&self, output: &OutputSpec) -> Result<Form, Failure> {
        Form::of(output, &self.build_args, &self.annotations, self.reproducible)
    }

    /// `dangling-name-prefix`: what comes before the digest in a name that the image has too, or if it has no other.
    fn dangling_prefix(&self, output: &OutputSpec, names: &[Reference]) -> Result<Option<Reference>, Failure> {
        let only_if_unnamed = output.flag("danging-name-empty-only", false)?;
        let prefix = output.attributes.get("dangling-name-prefix").filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| {
            prefix.parse::<Reference>().map_err(|error| Failure::usage(format!("--output dangling-name-prefix={prefix}: {error}")))
        });
        Ok(prefix.transpose()?.filter(|_| !only_if_unnamed || names.is_empty()))
    }

    /// The names of an output: its own, else the tags.
    pub fn names(&self, output: &OutputSpec) -> Result<Vec<Reference>, Failure> {
        let Some(given) = output.attributes.get("name").filter(|given| *given != "*" && !given.is_empty()) else {
            return Ok(self.tags.clone());
        };
        let names = given.split(',').filter(|name| !name.is_empty());
        names.map(|name| name.parse().map_err(|error| Failure::usage(format!("--output name={name}: {error}")))).collect()
    }
}

/// Writes everything; says what the image is.
pub async fn write(
    outcome: &Outcome,
    wanted: &Wanted,
    services: &Services,
    client_of: &dyn Fn(&OutputSpec) -> Result<Client, Failure>,
    steps: &Arc<Steps>,
    attester: &Attester<'_>,
) -> Result<Written, Failure> {
    let progress: Arc<dyn Progress> = steps.clone();
    let is_stated = Cell::new(false);
    let writer = Writer { outcome, wanted, services, client_of, steps, progress, attester, is_stated };
    let mut first = writer.made(&wanted.first_form()?).await?;
    let image = first.top.clone();
    if let Some(output) = wanted.outputs.iter().find(|output| output.is_image()).filter(|output| output.kind != OutputKind::Oci)
        && attester.is_in_index(output)?
    {
        writer.put_in_index(&mut first, output, &wanted.names(output)?).await?;
    }
    let mut names = writer.with_digest_tags(&wanted.tags, &first.top);
    writer.name(&first, &names).await?;
    for output in &wanted.outputs {
        for name in writer.write_output(output).await? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if attester.wanted.are_asked_for() && !writer.is_stated.get() {
        attester.note(steps, "no output has a place for the statements that were asked for: push it, or write type=oci, local or tar");
    }
    let written = Written::of(services, &first.top, names)?;
    Ok(Written { image, provenance: attester.metadata(), ..written })
}

struct Writer<'a> {
    outcome: &'a Outcome,
    wanted: &'a Wanted,
    services: &'a Services,
    client_of: &'a dyn Fn(&OutputSpec) -> Result<Client, Failure>,
    steps: &'a Arc<Steps>,
    progress: Arc<dyn Progress>,
    attester: &'a Attester<'a>,
    /// Whether an output had a place for statements.
    is_stated: Cell<bool>,
}

/// An image in one form.
struct Made {
    form: Form,
    /// The image of each platform and its manifest.
    images: Vec<(Image, Descriptor)>,
    top: Descriptor,
}

impl Made {
    /// What a statement about the whole is about: the image, and each one of an index.
    fn described(&self) -> Vec<&Descriptor> {
        let members = self.images.iter().map(|(_, manifest)| manifest).filter(|_| media_type::is_index(&self.top.media_type));
        std::iter::once(&self.top).chain(members).collect()
    }
}

impl Writer<'_> {
    /// The image in a form; base layers may be missing. Made again it costs nothing: layers remember their blobs.
    async fn made(&self, form: &Form) -> Result<Made, Failure> {
        let images = self.outcome.platforms.iter().map(|platform| form.image(platform, self.services, &self.progress));
        let images = futures_util::future::try_join_all(images).await?;
        let manifests = form.write_manifests(&images, self.services)?;
        let top = form.write_top(&manifests, Vec::new(), self.services);
        // Above a single manifest only statements make an index, and they come later.
        let is_index_later = self.attester.wanted.in_index || self.attester.wanted.are_asked_for();
        let top = match top {
            Err(_) if is_index_later => manifests[0].clone(),
            top => top?,
        };
        Ok(Made { form: form.clone(), images: images.into_iter().zip(manifests).collect(), top })
    }

    /// Fetches what the store lacks of it, but for some layers.
    async fn complete(&self, made: &Made, without: &BTreeSet<Digest>) -> Result<(), Failure> {
        let all = self.outcome.platforms.iter().map(|platform| made.form.complete(platform, without, self.services, &self.progress));
        futures_util::future::try_join_all(all).await.map(drop)
    }

    /// Gives the image its names in the store. Layers of its base that nothing has needed stay where they are: that they
    /// are there is noted first.
    async fn name(&self, made: &Made, names: &[Reference]) -> Result<(), Failure> {
        let all = self.outcome.platforms.iter().map(|platform| made.form.keep(platform, self.services, &self.progress));
        futures_util::future::try_join_all(all).await?;
        self.services.store.tag_all(names, &made.top).map_err(|error| Failure::new(chain(&error)))
    }

    /// The names and, with `--tag-digest`, for each of their repositories one that says the digest.
    fn with_digest_tags(&self, names: &[Reference], top: &Descriptor) -> Vec<Reference> {
        let mut all = names.to_vec();
        for name in names.iter().filter(|_| self.wanted.tag_digest) {
            let named = name.with_tag(&digest_tag(&top.digest));
            if !all.contains(&named) {
                all.push(named);
            }
        }
        all
    }

    /// Gives the names that the image has got by it.
    async fn write_output(&self, output: &OutputSpec) -> Result<Vec<Reference>, Failure> {
        if !output.is_image() {
            let statements = self.file_statements(output).await?;
            files::write(self.outcome, output, &statements, self.services, self.steps).await?;
            return Ok(Vec::new());
        }
        let mut made = self.made(&self.wanted.form(output)?).await?;
        let is_in_index = self.attester.is_in_index(output)?;
        if is_in_index {
            self.put_in_index(&mut made, output, &self.wanted.names(output)?).await?;
        }
        let names = self.with_digest_tags(&self.wanted.names(output)?, &made.top);
        let is_pushed = output.is_pushed()?;
        if let Some(note) = ignored(output)? {
            self.progress.event(crate::build::Event::Note { step: None, text: &note });
        }
        let is_loaded = output.kind == OutputKind::Docker && output.dest.is_none() && output.flag("tar", true)?;
        if matches!(output.kind, OutputKind::Oci | OutputKind::Docker) && !is_loaded {
            self.complete(&made, &BTreeSet::new()).await?;
        }
        if output.kind == OutputKind::Image && output.flag("store", true)? {
            let mut names = names.clone();
            if output.flag("name-canonical", false)? {
                names.extend(canonical(&names, &made.top));
            }
            let prefix = self.wanted.dangling_prefix(output, &names)?;
            names.extend(prefix.map(|prefix| prefix.with_digest(made.top.digest.clone())));
            self.name(&made, &names).await?;
        }
        if is_pushed {
            let client = (self.client_of)(output)?;
            if is_in_index {
                self.push(output, &made, &names, &client).await?;
            } else {
                let (pushed, sent) = tokio::join!(self.push(output, &made, &names, &client), self.send_beside(&made, &names, &client));
                pushed?;
                self.put_beside(&made, &names, &client, sent).await?;
            }
        }
        if matches!(output.kind, OutputKind::Oci | OutputKind::Docker) {
            let options = LayoutOptions {
                names: names.clone(),
                created: None,
                descriptor_annotations: made.form.annotations(AnnotationKind::IndexDescriptor, None),
                ..LayoutOptions::default()
            };
            self.write_archive(output, &made, &options).await?;
        }
        Ok(names)
    }

    async fn push(&self, output: &OutputSpec, made: &Made, names: &[Reference], client: &Client) -> Result<(), Failure> {
        let stack = || self.outcome.platforms.iter().flat_map(|platform| platform.stack.iter());
        let mut mount_from: Vec<Reference> = stack().flat_map(|layer| layer.came_with(&self.services.store)).collect();
        mount_from.sort();
        mount_from.dedup();
        let bases: BTreeMap<Digest, Arc<Layer>> =
            stack().filter_map(|layer| Some((layer.base_layer()?.descriptor.digest.clone(), layer.clone()))).collect();
        let (services, progress) = (self.services.clone(), self.progress.clone());
        let obtain: Box<Obtain> = Box::new(move |blob: Descriptor| {
            let layer = bases.get(&blob.digest).cloned();
            let (services, progress) = (services.clone(), progress.clone());
            async move {
                let layer = layer.ok_or_else(|| format!("blob {} is neither in the registry nor in the store", blob.digest))?;
                layer.blob(Default::default(), &services, &progress).await.map(drop).map_err(|error| error.message)
            }
            .boxed()
        });
        let names: Vec<Reference> = match output.flag("push-by-digest", false)? {
            true => names.iter().map(|name| name.with_digest(made.top.digest.clone())).collect(),
            false => names.to_vec(),
        };
        push(&made.top, &names, &mount_from, &*obtain, client, self.services, self.steps).await
    }

    /// Hands the image to whoever runs images here; only what they lack is fetched.
    async fn load(&self, output: &OutputSpec, made: &Made, options: &LayoutOptions) -> Result<String, Failure> {
        let context = output.attributes.get("context").map(String::as_str);
        let load = load::Load { services: self.services, top: &made.top, options, context };
        let mut taker = load.ask()?;
        self.complete(made, &taker.has).await?;
        match load.hand_over(&taker) {
            Err(_) if !taker.has.is_empty() => {
                taker.has.clear();
                self.complete(made, &taker.has).await?;
                load.hand_over(&taker)
            }
            taken => taken,
        }
    }

    async fn write_archive(&self, output: &OutputSpec, made: &Made, options: &LayoutOptions) -> Result<(), Failure> {
        let (store, top) = (&self.services.store, &made.top);
        let fail = |error: export::ExportError| Failure::new(format!("cannot export: {}", chain(&error)));
        let name = if output.kind == OutputKind::Oci { "oci" } else { "docker" };
        let title = match &output.dest {
            Some(dest) if !output.is_to_stdout() => format!("exporting {} to {name} {}", short(&top.digest), dest.display()),
            None if output.kind == OutputKind::Docker => format!("loading {}", short(&top.digest)),
            _ => format!("exporting {} to {name}", short(&top.digest)),
        };
        let work = async |step| match output.kind {
            OutputKind::Oci | OutputKind::Docker if !output.flag("tar", true)? => {
                let path = output.dest.as_deref().expect("a directory without a place was refused");
                export::write_oci_directory(store, top, path, options).map_err(fail)
            }
            OutputKind::Oci => export::write_oci_archive(store, top, files::destination(output)?, options).map_err(fail),
            _ if output.dest.is_none() => {
                let taken = self.load(output, made, options).await?;
                self.progress.event(crate::build::Event::Note { step: Some(step), text: &taken });
                Ok(())
            }
            _ => export::write_docker_archive(store, top, files::destination(output)?, options).map_err(fail),
        };
        self.steps.metered(&title, &options.meter, work).await
    }
}

/// `digest-0123456789ab`; a tag made of the whole digest is what registries without referrers keep those under.
pub fn digest_tag(digest: &Digest) -> String {
    format!("digest-{}", &digest.hex()[..12])
}

/// `NAME@DIGEST` for each name.
fn canonical(names: &[Reference], top: &Descriptor) -> Vec<Reference> {
    let mut all: Vec<Reference> = names.iter().map(|name| name.with_digest(top.digest.clone())).collect();
    all.dedup();
    all
}

/// Keys that are understood and change nothing here, with the reason.
fn ignored(output: &OutputSpec) -> Result<Option<String>, Failure> {
    let mut reasons = Vec::new();
    if output.flag("unpack", false)? {
        reasons.push("unpack: layers are unpacked when something runs in them");
    }
    if output.attributes.contains_key("compatibility-version") {
        reasons.push("compatibility-version: there is one format");
    }
    Ok((!reasons.is_empty()).then(|| format!("ignored in --output: {}", reasons.join("; "))))
}
