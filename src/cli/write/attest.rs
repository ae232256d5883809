//! Statements to where the image goes: beside it in a registry, above it in an index, as files among files.

use std::sync::Arc;

use super::{
    Failure, Made, Writer, nothing_more, push,
    registry::{by_repository, push_manifest},
};
use crate::{
    build::chain,
    cli::{
        attest::{Statement, Subjects},
        outputs::OutputSpec,
    },
    export::{self, ExportError, Pusher},
    oci::{Descriptor, Reference, media_type},
    registry::Client,
};

/// What is known and done of the provenance of an image in one repository before the image is there.
#[derive(Default)]
pub(super) struct Begun {
    /// Whether there is one that nobody asked for; None if the registry did not say.
    is_stated: Option<bool>,
    /// Its manifest, whose blobs are on their way.
    provenance: Option<Descriptor>,
    /// Whether those have arrived.
    are_blobs_sent: bool,
}

impl Writer<'_> {
    /// Makes the image an index of its manifests and of what is stated about each.
    pub(super) async fn put_in_index(&self, made: &mut Made, output: &OutputSpec, names: &[Reference]) -> Result<(), Failure> {
        self.complete_for_sbom(made).await?;
        let is_artifact = output.flag("oci-artifact", false)?;
        let mut attestations = Vec::with_capacity(made.images.len());
        for (image, manifest) in &made.images {
            let subjects = Subjects::image(names, &[manifest]);
            let sbom = self.attester.sbom(image, Some(manifest), &subjects, self.services).await?;
            let all: Vec<Statement> = sbom.into_iter().chain(self.attester.provenance(&subjects)).collect();
            let all: Vec<(&str, &[u8])> = all.iter().map(|statement| (statement.predicate_type, statement.bytes.as_slice())).collect();
            attestations.push(export::write_index_attestation(&self.services.store, manifest, &all, is_artifact).map_err(fail)?);
        }
        let manifests: Vec<Descriptor> = made.images.iter().map(|(_, manifest)| manifest.clone()).collect();
        made.top = made.form.write_top(&manifests, attestations, self.services)?;
        self.is_stated.set(true);
        Ok(())
    }

    /// Begins, while the image itself is pushed, what [`Writer::put_beside`] ends. What fails here is done again there.
    pub(super) async fn begin_beside(&self, made: &Made, names: &[Reference], client: &Client) -> Vec<Begun> {
        let groups = by_repository(names);
        let begun = groups.iter().map(|group| self.begin_group(made, group, client));
        futures_util::future::join_all(begun).await
    }

    async fn begin_group(&self, made: &Made, group: &[Reference], client: &Client) -> Begun {
        let Ok(is_stated) = self.is_stated_at(made, group, client).await else { return Begun::default() };
        if is_stated {
            return Begun { is_stated: Some(true), ..Begun::default() };
        }
        let Ok(provenance) = self.write_provenance(made, group) else { return Begun::default() };
        if let Some(attestation) = &provenance {
            let quiet: export::PushListener = Arc::new(|_, _| ());
            let pusher = Pusher { client, store: &self.services.store, obtain: &*nothing_more(), listener: quiet };
            if pusher.push_blobs(attestation, &group[0]).await.is_ok() {
                return Begun { is_stated: Some(false), provenance, are_blobs_sent: true };
            }
        }
        Begun { is_stated: Some(false), provenance, are_blobs_sent: false }
    }

    /// Pushes what is stated about an image that was pushed. What nobody asked for fails nobody's push.
    pub(super) async fn put_beside(&self, made: &Made, names: &[Reference], client: &Client, begun: Vec<Begun>) -> Result<(), Failure> {
        match self.try_put_beside(made, names, client, begun).await {
            Err(failure) if self.attester.wanted.is_default => {
                let text = format!("warning: the provenance was not put beside the image: {}", failure.message);
                self.attester.note(self.steps, &text);
                Ok(())
            }
            result => result,
        }
    }

    async fn try_put_beside(&self, made: &Made, names: &[Reference], client: &Client, begun: Vec<Begun>) -> Result<(), Failure> {
        self.complete_for_sbom(made).await?;
        let store = &self.services.store;
        for (group, begun) in by_repository(names).into_iter().zip(begun) {
            let mut all: Vec<(Descriptor, Descriptor)> = Vec::new();
            for (image, manifest) in &made.images {
                let subjects = Subjects::image(&group, &[manifest]);
                if let Some(sbom) = self.attester.sbom(image, Some(manifest), &subjects, self.services).await? {
                    all.push((
                        manifest.clone(),
                        export::write_attestation(store, manifest, sbom.predicate_type, &sbom.bytes).map_err(fail)?,
                    ));
                }
            }
            let is_stated = match begun.is_stated {
                Some(known) => known,
                None => self.is_stated_at(made, &group, client).await?,
            };
            if is_stated {
                continue;
            }
            let provenance = match begun.provenance {
                Some(written) => Some(written),
                None => self.write_provenance(made, &group)?,
            };
            all.extend(provenance.map(|attestation| (made.top.clone(), attestation)));
            let count = all.len();
            for (number, (subject, attestation)) in all.into_iter().enumerate() {
                let name = group[0].with_digest(attestation.digest.clone());
                let (names, obtain) = (std::slice::from_ref(&name), nothing_more());
                // The last one is the provenance.
                let only_manifest = begun.are_blobs_sent && number + 1 == count;
                let push_it = async {
                    match only_manifest {
                        true => push_manifest(&attestation, &name, client, self.services, self.steps).await,
                        false => push(&attestation, names, &[], &*obtain, client, self.services, self.steps).await,
                    }
                };
                // The list is asked for meanwhile: it is as new as can be without waiting for it.
                let (pushed, list) = tokio::join!(push_it, client.referrers_tag(&name, &subject.digest));
                pushed?;
                let list = list.map_err(|error| fail(error.into()))?;
                export::list_referrer(client, &name, &subject, &attestation, list).await.map_err(fail)?;
            }
        }
        self.is_stated.set(true);
        Ok(())
    }

    /// Whether a repository has the provenance that nobody asked for: an image that is pushed again and again has one,
    /// not many.
    async fn is_stated_at(&self, made: &Made, group: &[Reference], client: &Client) -> Result<bool, Failure> {
        match &self.attester.wanted.provenance {
            Some(options) if self.attester.wanted.is_default => {
                export::has_statement(client, &group[0], &made.top, options.predicate_type()).await.map_err(fail)
            }
            _ => Ok(false),
        }
    }

    /// Writes how the image was made into the store, if that is wanted.
    fn write_provenance(&self, made: &Made, group: &[Reference]) -> Result<Option<Descriptor>, Failure> {
        let mut about = vec![&made.top];
        if media_type::is_index(&made.top.media_type) {
            about.extend(made.images.iter().map(|(_, manifest)| manifest));
        }
        let Some(provenance) = self.attester.provenance(&Subjects::image(group, &about)) else { return Ok(None) };
        let store = &self.services.store;
        export::write_attestation(store, &made.top, provenance.predicate_type, &provenance.bytes).map(Some).map_err(fail)
    }

    /// What is stated about files, to lie among them: only if somebody asked for it.
    pub(super) async fn file_statements(&self, output: &OutputSpec) -> Result<Vec<Vec<(String, Vec<u8>)>>, Failure> {
        if !self.attester.wanted.are_asked_for() || output.dest.is_none() && output.kind != crate::cli::outputs::OutputKind::Tar {
            return Ok(Vec::new());
        }
        let made = self.made(&self.wanted.first_form()?).await?;
        self.complete(&made).await?;
        let prefix = output.attributes.get("attestation-prefix").cloned().unwrap_or_default();
        let is_split = output.flag("platform-split", made.images.len() > 1)?;
        let mut list = Vec::with_capacity(made.images.len());
        for (image, _) in &made.images {
            let (store, about) = (self.services.store.clone(), image.clone());
            let listing = tokio::task::spawn_blocking(move || export::list(&store, &about, true)).await;
            let listing = listing.map_err(|error| Failure::new(format!("cannot read the files: {error}")))?.map_err(fail)?;
            let files = listing
                .files
                .iter()
                .filter_map(|(path, file)| Some((String::from_utf8_lossy(path).into_owned(), file.content.as_ref()?.hex().to_owned())));
            let subjects = Subjects(files.collect());
            let sbom = self.attester.sbom(image, None, &subjects, self.services).await?;
            let all = sbom.into_iter().chain(self.attester.provenance(&subjects));
            let named =
                all.map(|statement| (file_name(&prefix, statement.file_name, image, made.images.len() > 1 && !is_split), statement.bytes));
            list.push(named.collect());
        }
        self.is_stated.set(true);
        Ok(list)
    }

    /// Package databases are read from layers, those of the base too.
    async fn complete_for_sbom(&self, made: &Made) -> Result<(), Failure> {
        if self.attester.wanted.sbom { self.complete(made).await } else { Ok(()) }
    }
}

/// `provenance.linux_amd64.json` where files of several platforms lie together.
fn file_name(prefix: &str, name: &str, image: &crate::oci::Image, is_together: bool) -> String {
    let platform = image.platform.to_string().replace('/', "_");
    match name.split_once('.').filter(|_| is_together) {
        Some((stem, end)) => format!("{prefix}{stem}.{platform}.{end}"),
        None => format!("{prefix}{name}"),
    }
}

fn fail(error: ExportError) -> Failure {
    Failure::new(format!("cannot state how the image was made and what is in it: {}", chain(&error)))
}
