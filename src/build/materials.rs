//! What came into a build from elsewhere, by digest: base images of all stages, files from the web, repositories.
//! Unaware of how that is stated.

use std::sync::Arc;

use crate::{
    build::{engine::Engine, fetched::Fetched, key::source_name},
    context::redact_url,
    oci::{Platform, Reference},
    plan::{BaseSource, Op, SourceFrom, VertexId},
};

/// Something from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// What it is.
    pub kind: MaterialKind,
    /// Its name, without credentials.
    pub name: String,
    /// `sha256` or `sha1`, and the digest in hex.
    pub digest: (String, String),
    /// The text of the Dockerfile that names it.
    pub text: String,
}

/// Kinds of materials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaterialKind {
    /// An image of a registry.
    Image(Reference, Platform),
    /// An image of a layout on disk.
    Layout(Platform),
    /// A file.
    File,
    /// A commit.
    Repository,
}

impl Engine {
    /// What the steps of this build used, in the order of the Dockerfile. What no step had to look at is left out.
    pub(super) fn materials(self: &Arc<Self>) -> Vec<Material> {
        let mut list: Vec<Material> = Vec::new();
        for (index, vertex) in self.plan.vertices.iter().enumerate() {
            let text = self.request.dockerfile.get(vertex.span.start..vertex.span.end).unwrap_or_default().to_owned();
            match &vertex.op {
                Op::Image(key) => {
                    let Some(found) = self.bases.get(key) else { continue };
                    let reference = match &key.source {
                        BaseSource::Registry(reference) => Some(reference.clone()),
                        BaseSource::Context(name) => match self.request.named_contexts.get(name) {
                            Some(super::ContextSource::Image(reference)) => Some(reference.clone()),
                            _ => None,
                        },
                    };
                    let platform = key.platform.clone();
                    let (name, kind) = match reference {
                        Some(reference) => (reference.to_string(), MaterialKind::Image(reference, platform)),
                        None => (key.to_string(), MaterialKind::Layout(platform)),
                    };
                    let digest = ("sha256".to_owned(), found.base.digest.hex().to_owned());
                    list.push(Material { kind, name, digest, text });
                }
                Op::Copy(copy) => {
                    for (number, source) in copy.sources.iter().enumerate() {
                        list.extend(self.fetched_material(VertexId(index), number, &source.from, &text));
                    }
                }
                Op::Run(_) | Op::Workdir(_) => {}
            }
        }
        let mut seen: Vec<Material> = Vec::new();
        list.retain(|material| {
            let is_new = !seen.iter().any(|known| (&known.name, &known.digest) == (&material.name, &material.digest));
            seen.extend(is_new.then(|| material.clone()));
            is_new
        });
        list
    }

    fn fetched_material(&self, id: VertexId, number: usize, from: &SourceFrom, text: &str) -> Option<Material> {
        match from {
            SourceFrom::Url { url, .. } => {
                let Some(Ok(fetched)) = self.inputs.fetched(from) else { return None };
                let Fetched::File { download, .. } = &*fetched else { return None };
                let digest = ("sha256".to_owned(), download.digest.hex().to_owned());
                Some(Material { kind: MaterialKind::File, name: redact_url(url).into_owned(), digest, text: text.to_owned() })
            }
            SourceFrom::Git { reference, .. } => {
                let cell = self.content_cell(id, &source_name(number));
                let content = cell.get()?.as_ref().ok()?.strip_prefix("content:git:")?;
                let commit = content.split(' ').next()?.to_owned();
                let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
                let (name, digest) = (redact_url(reference).into_owned(), (algorithm.to_owned(), commit));
                Some(Material { kind: MaterialKind::Repository, name, digest, text: text.to_owned() })
            }
            _ => None,
        }
    }
}
