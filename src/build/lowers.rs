//! What is known of the layers that something is copied onto, without their files as long as that will do.
//!
//! | A layer is known by | which takes | and can't tell |
//! |---|---|---|
//! | its directory, if there is one | nothing | |
//! | its index, which the store keeps | its blob, once | what files hold, mostly |
//! | its outline, which a cache elsewhere has | a few bytes for each file | what files are like |
//!
//! The first is for layers that are unpacked, the third for those that this store has never seen and has no blob of. An
//! outline that meets what it can't tell gives way to the layer's index, and what indexes can't tell is asked of the
//! directories: the work is done again each time. A layer that was packed in this build without a directory has its index
//! from that (`straight`).

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use crate::{
    build::{
        BuildError, Kind, Progress, StepId,
        blob::{BlobReader, with_blob},
        error::chain,
        layer::{BlobSource, Layer, Origin, blocking, directories},
        remote::Outline,
        request::Services,
        unpack::{check_diff_id, unreadable},
    },
    oci::DiffId,
    snapshot::{
        self, Ahead, Limits,
        layered::{LayerIndex, Lower, index_layer, index_unpacked},
    },
    store::Store,
    sys::root::RootDir,
};

/// What is known of a layer.
#[derive(Clone)]
enum Known {
    Directory(PathBuf),
    Index(Arc<LayerIndex>),
    Outline(Outline),
}

impl Known {
    fn lacks_files(&self) -> bool {
        matches!(self, Self::Outline(outline) if outline.index.lacks_files())
    }

    fn writer(&self) -> Option<String> {
        if let Self::Outline(outline) = self { Some(outline.writer.clone()) } else { None }
    }
}

/// Does work that needs to know what is in a stack, but hardly ever the contents. Gives also the writers of the outlines
/// that it was done by.
pub async fn on_lowers<T: Send + 'static>(
    stack: &[Arc<Layer>],
    services: &Services,
    progress: &Arc<dyn Progress>,
    work: impl Fn(Vec<Lower>) -> Result<T, BuildError> + Send + Sync + 'static,
) -> Result<(T, BTreeSet<String>), BuildError> {
    let work = Arc::new(work);
    let mut known = futures_util::future::try_join_all(stack.iter().map(|layer| layer.known(services, progress))).await?;
    loop {
        let again = work.clone();
        let used = open_later(&known, stack);
        let result = blocking(move || again(open_known(&used)?)).await;
        let is_whole = known.iter().all(|layer| matches!(layer, Known::Directory(_)));
        if is_whole || !matches!(&result, Err(error) if error.needs_files) {
            return result.map(|value| (value, known.iter().filter_map(Known::writer).collect()));
        }
        let lacking: Vec<usize> = (0..known.len()).filter(|index| known[*index].lacks_files()).collect();
        if lacking.is_empty() {
            break;
        }
        let whole = lacking.iter().map(|index| stack[*index].known_whole(services, progress));
        for (index, layer) in lacking.iter().zip(futures_util::future::try_join_all(whole).await?) {
            known[*index] = layer;
        }
    }
    let paths = directories(stack, services, progress).await?;
    let done = blocking(move || work(open_known(&paths.into_iter().map(Known::Directory).collect::<Vec<_>>())?)).await;
    done.map(|value| (value, BTreeSet::new()))
}

/// What is opened of a stack, top first: directories that change nothing are left out.
fn open_later(known: &[Known], stack: &[Arc<Layer>]) -> Vec<Known> {
    let matters = |(known, layer): &(&Known, &Arc<Layer>)| match known {
        Known::Directory(path) => !layer.is_empty(path),
        Known::Index(_) | Known::Outline(_) => true,
    };
    known.iter().zip(stack).rev().filter(matters).map(|(known, _)| known.clone()).collect()
}

fn open_known(layers: &[Known]) -> Result<Vec<Lower>, BuildError> {
    let open = |layer: &Known| match layer {
        Known::Directory(path) => RootDir::open(path).map(Lower::Directory),
        Known::Index(index) | Known::Outline(Outline { index, .. }) => Ok(Lower::Index(index.clone())),
    };
    let opened = layers.iter().map(open).collect::<std::io::Result<_>>();
    opened.map_err(|error| BuildError::new(Kind::Store, format!("cannot open a layer: {error}")))
}

impl Layer {
    /// What the tars of its blobs are called, as far as they hold what the layer holds and no more.
    pub fn diff_ids(&self) -> Vec<DiffId> {
        if let Some(layer) = self.base_layer() {
            return vec![layer.diff_id.clone()];
        }
        let blobs = self.known_blobs().into_iter().map(|(_, layer)| layer);
        blobs.filter(|layer| !layer.descriptor.annotations.contains_key(snapshot::TOC_DIGEST)).map(|layer| layer.diff_id).collect()
    }

    /// Its names and metadata, from the least work.
    async fn known(self: &Arc<Self>, services: &Services, progress: &Arc<dyn Progress>) -> Result<Known, BuildError> {
        if self.index.get().is_none()
            && services.store.snapshot(&self.snapshot).map_err(BuildError::store)?.is_none()
            && let Some(outline) = self.outline.get_or_init(|| self.find_outline(services)).await
            && !outline.index.lacks_files()
        {
            return Ok(Known::Outline(outline.clone()));
        }
        self.known_whole(services, progress).await
    }

    /// The same without outlines.
    async fn known_whole(self: &Arc<Self>, services: &Services, progress: &Arc<dyn Progress>) -> Result<Known, BuildError> {
        let has_blob = self.base_layer().is_some() || !self.known_blobs().is_empty();
        if has_blob
            && services.store.snapshot(&self.snapshot).map_err(BuildError::store)?.is_none()
            && let Some(index) = self.index.get_or_init(|| self.make_index(services, progress)).await.clone()?
        {
            return Ok(Known::Index(index));
        }
        self.directory(services, progress).await.map(Known::Directory)
    }

    /// What a cache elsewhere says is in it; nobody is asked of what is here.
    async fn find_outline(&self, services: &Services) -> Option<Outline> {
        let remote = services.remote.as_ref()?;
        let is_here = |layer: &crate::oci::Layer| services.store.has_described(&layer.descriptor).unwrap_or(false);
        let has_blob = self.base_layer().is_some_and(is_here) || self.known_blobs().iter().any(|(_, layer)| is_here(layer));
        let diff_ids = self.diff_ids();
        if has_blob {
            return None;
        }
        if let Some(index) = diff_ids.iter().find_map(|diff_id| kept_index(&services.store, diff_id)) {
            // What is read here is not read again; somebody who does so now reads the same.
            let _ = self.index.set(Ok(Some(Arc::new(index))));
            return None;
        }
        for diff_id in diff_ids {
            if let Some(outline) = remote.outline(diff_id).await {
                return Some(outline);
            }
        }
        None
    }

    /// What this build or an earlier one has seen of it, if that is at hand; contents of files may not be known.
    pub async fn index_at_hand(&self, services: &Services) -> Result<Option<Arc<LayerIndex>>, BuildError> {
        if let Some(Ok(Some(index))) = self.index.get() {
            return Ok(Some(index.clone()));
        }
        if let Some(index) = self.diff_ids().iter().find_map(|diff_id| kept_index(&services.store, diff_id)) {
            return Ok(Some(Arc::new(index)));
        }
        let Some(path) = services.store.snapshot(&self.snapshot).map_err(BuildError::store)? else { return Ok(None) };
        // One that can't be read is not known.
        let read = move || RootDir::open(&path.join("fs")).and_then(|root| index_unpacked(&root)).ok().flatten();
        Ok(blocking(read).await.map(Arc::new))
    }

    async fn make_index(&self, services: &Services, progress: &Arc<dyn Progress>) -> Result<Option<Arc<LayerIndex>>, BuildError> {
        let (layer, source, step) = &match &self.origin {
            Origin::Base { layer, source, step } => ((**layer).clone(), source.clone(), *step),
            Origin::Step { .. } => (self.fetched_blob(services).await?, BlobSource::Store, StepId(0)),
        };
        if self.base_layer().is_none() && layer.descriptor.annotations.contains_key(snapshot::TOC_DIGEST) {
            // What the format adds to the tar, the step did not make.
            return Ok(None);
        }
        if let Some(index) = kept_index(&services.store, &layer.diff_id) {
            return Ok(Some(Arc::new(index)));
        }
        let _permit = services.unpacking.acquire().await.expect("the semaphore is never closed");
        let wanted = Box::new(layer.clone());
        let read = move |blob: BlobReader| {
            let fail = |error: &dyn std::error::Error| unreadable(&wanted, &chain(error));
            let mut tar = Ahead::new(blob).map_err(|error| fail(&error))?;
            let index = index_layer(&mut tar, Limits::default()).map_err(|error| fail(&error))?;
            check_diff_id(&wanted, tar.finish().map_err(|error| fail(&error))?)?;
            Ok(index)
        };
        let index = with_blob(&layer.descriptor, source, *step, services, progress, read).await?;
        if let Some(bytes) = index.as_ref().and_then(|index| index.to_bytes().ok()) {
            services.store.save_layer_index(&layer.diff_id, &bytes).map_err(BuildError::store)?;
        }
        Ok(index.map(Arc::new))
    }
}

/// The index that the store keeps of a layer; one that can't be read is made anew.
pub fn kept_index(store: &Store, layer: &DiffId) -> Option<LayerIndex> {
    LayerIndex::from_bytes(&store.layer_index(layer).ok()??)
}
