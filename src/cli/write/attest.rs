//! Statements to where the image goes: beside it in a registry, above it in an index, as files among files.

use super::{Failure, Made, Writer, nothing_more, push, registry::by_repository};
use crate::{
    build::chain,
    cli::{
        attest::{Statement, Subjects},
        outputs::OutputSpec,
    },
    export::{self, ExportError},
    oci::{Descriptor, Reference, media_type},
    registry::Client,
};

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

    /// Pushes what is stated about an image that was pushed. What nobody asked for fails nobody's push.
    pub(super) async fn put_beside(&self, made: &Made, names: &[Reference], client: &Client) -> Result<(), Failure> {
        match self.try_put_beside(made, names, client).await {
            Err(failure) if self.attester.wanted.is_default => {
                let text = format!("warning: the provenance was not put beside the image: {}", failure.message);
                self.attester.note(self.steps, &text);
                Ok(())
            }
            result => result,
        }
    }

    async fn try_put_beside(&self, made: &Made, names: &[Reference], client: &Client) -> Result<(), Failure> {
        self.complete_for_sbom(made).await?;
        let store = &self.services.store;
        for group in by_repository(names) {
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
            // Nobody asked: an image that is pushed again and again has one, not many.
            if self.attester.wanted.is_default
                && let Some(options) = &self.attester.wanted.provenance
                && export::has_statement(client, &group[0], &made.top, options.predicate_type()).await.map_err(fail)?
            {
                continue;
            }
            let mut about = vec![&made.top];
            if media_type::is_index(&made.top.media_type) {
                about.extend(made.images.iter().map(|(_, manifest)| manifest));
            }
            if let Some(provenance) = self.attester.provenance(&Subjects::image(&group, &about)) {
                let written = export::write_attestation(store, &made.top, provenance.predicate_type, &provenance.bytes);
                all.push((made.top.clone(), written.map_err(fail)?));
            }
            for (subject, attestation) in all {
                let name = group[0].with_digest(attestation.digest.clone());
                push(&attestation, std::slice::from_ref(&name), &[], &*nothing_more(), client, self.services, self.steps).await?;
                export::list_referrer(client, &name, &subject, &attestation).await.map_err(fail)?;
            }
        }
        self.is_stated.set(true);
        Ok(())
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
