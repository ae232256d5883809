//! Statements to where the image goes: beside it in a registry, above it in an index, as files among files.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::try_join_all;

use super::{Failure, Made, Writer, nothing_more, registry::by_repository};
use crate::{
    build::{chain, short},
    cli::{
        attest::{Statement, Subjects},
        outputs::{OutputKind, OutputSpec},
    },
    export::{self, ExportError, Obtain, PushListener, Pusher},
    oci::{Descriptor, Reference},
    registry::Client,
};

/// A statement that is in a repository, and what it is about.
pub(super) struct Stated {
    name: Reference,
    subject: Descriptor,
    attestation: Descriptor,
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

    /// Pushes what is stated about an image, while the image itself is pushed: nothing leads to it yet.
    pub(super) async fn send_beside(&self, made: &Made, names: &[Reference], client: &Client) -> Result<Vec<Stated>, Failure> {
        self.complete_for_sbom(made).await?;
        let groups = by_repository(names);
        let sent = groups.iter().map(|group| self.send_to_repository(made, group, client));
        Ok(try_join_all(sent).await?.into_iter().flatten().collect())
    }

    async fn send_to_repository(&self, made: &Made, group: &[Reference], client: &Client) -> Result<Vec<Stated>, Failure> {
        let mut all = Vec::new();
        for (image, manifest) in &made.images {
            let sbom = self.attester.sbom(image, Some(manifest), &Subjects::image(group, &[manifest]), self.services).await?;
            if let Some(statement) = sbom {
                all.push((manifest, self.write_statement(manifest, &statement)?));
            }
        }
        let is_stated = self.is_stated_at(made, group, client).await?;
        let provenance = (!is_stated).then(|| self.attester.provenance(&Subjects::image(group, &made.described()))).flatten();
        if let Some(statement) = provenance {
            all.push((&made.top, self.write_statement(&made.top, &statement)?));
        }
        let (obtain, listener): (Box<Obtain>, PushListener) = (nothing_more(), Arc::new(|_, _| ()));
        let pusher = Pusher { client, store: &self.services.store, obtain: &*obtain, listener };
        let sent = all.into_iter().map(async |(subject, attestation)| {
            let name = group[0].with_digest(attestation.digest.clone());
            pusher.push(&attestation, std::slice::from_ref(&name), &[]).await.map_err(fail)?;
            Ok(Stated { name, subject: subject.clone(), attestation })
        });
        try_join_all(sent).await
    }

    fn write_statement(&self, subject: &Descriptor, statement: &Statement) -> Result<Descriptor, Failure> {
        export::write_attestation(&self.services.store, subject, statement.predicate_type, &statement.bytes).map_err(fail)
    }

    /// Makes what was sent findable, now that the image is there. What nobody asked for fails nobody's push.
    pub(super) async fn put_beside(
        &self,
        made: &Made,
        names: &[Reference],
        client: &Client,
        sent: Result<Vec<Stated>, Failure>,
    ) -> Result<(), Failure> {
        let list = async {
            let sent = match sent {
                Ok(sent) => sent,
                // Some registries want what a statement is about to be there first.
                Err(_) => self.send_beside(made, names, client).await?,
            };
            self.list(&sent, client).await
        };
        match list.await {
            Err(failure) if self.attester.wanted.is_default => {
                let text = format!("warning: the provenance was not put beside the image: {}", failure.message);
                self.attester.note(self.steps, &text);
                Ok(())
            }
            result => result,
        }
    }

    async fn list(&self, sent: &[Stated], client: &Client) -> Result<(), Failure> {
        for Stated { name, subject, attestation } in sent {
            let list = async |_| {
                let list = client.referrers_tag(name, &subject.digest).await.map_err(|error| fail(error.into()))?;
                export::list_referrer(client, name, subject, attestation, list).await.map_err(fail)
            };
            let about = name.with_digest(subject.digest.clone());
            self.steps.step(&format!("putting {} beside {about}", short(&attestation.digest)), list).await?;
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

    /// What is stated about files, to lie among them: only if somebody asked for it.
    pub(super) async fn file_statements(&self, output: &OutputSpec) -> Result<Vec<Vec<(String, Vec<u8>)>>, Failure> {
        if !self.attester.wanted.are_asked_for() || output.kind == OutputKind::CacheOnly {
            return Ok(Vec::new());
        }
        let made = self.made(&self.wanted.first_form()?).await?;
        self.complete(&made, &BTreeSet::new()).await?;
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
        if self.attester.wanted.sbom { self.complete(made, &BTreeSet::new()).await } else { Ok(()) }
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
