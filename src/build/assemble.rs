//! The image of a finished target: config, history and layers put together as BuildKit's exporter does it
//! (`normalizeLayersAndHistory`, `patchImageConfig`). Unaware of where layers are.

use crate::{
    oci::{DiffId, History, Image, Layer},
    plan::{Base, Target},
};

/// What BuildKit writes beside each entry it makes.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// A layer that this build adds, and when it was made.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The layer.
    pub layer: Layer,
    /// What its step is called.
    pub name: String,
    /// Seconds and nanoseconds since 1970 when its step ended.
    pub created: jiff::Timestamp,
}

/// Puts the image together. `new_layers` follow the target's non-empty history entries, bottom first; there may be more
/// (a context of files as base), never fewer.
pub fn assemble(target: &Target, base: Option<&Base>, new_layers: &[NewLayer]) -> Image {
    let epoch = target.epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let mut config = target.config.clone();
    // The cache of a base image is of the base image.
    for key in ["moby.buildkit.cache.v0", "rbuild.cache.v1"] {
        config.extra.remove(key);
    }
    let mut layers: Vec<Layer> = base.map(|base| base.image.layers.clone()).unwrap_or_default();
    let base_layers = layers.len();
    layers.extend(new_layers.iter().map(|new| new.layer.clone()));
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<DiffId>>();
    let mut history = base.map(|base| base.image.config.history.clone()).unwrap_or_default();
    balance_base_history(&mut history, base_layers);
    history.extend(new_history(target, new_layers, epoch));
    fill_times(&mut history);
    config.created = match epoch {
        Some(time) => Some(time.to_string()),
        None => history.last().and_then(|entry| entry.created.clone()),
    };
    config.history = history;
    Image { platform: target.platform.clone(), config, layers }
}

/// A base whose history does not account for its layers is corrected, so that ours still does.
fn balance_base_history(history: &mut Vec<History>, layers: usize) {
    let mut counted = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if counted == layers {
            entry.empty_layer = true;
        } else {
            counted += 1;
        }
    }
    for _ in counted..layers {
        history.push(History { comment: Some("buildkit.exporter.image.v0".to_owned()), ..History::default() });
    }
}

fn new_history(target: &Target, new_layers: &[NewLayer], epoch: Option<jiff::Timestamp>) -> Vec<History> {
    let with_layer = target.history.iter().filter(|entry| entry.layer.is_some()).count();
    let unaccounted = new_layers.len().saturating_sub(with_layer);
    let time = |new: &NewLayer| epoch.unwrap_or(new.created).to_string();
    let mut list = Vec::new();
    let mut layers = new_layers.iter();
    for entry in &target.history {
        let layer = entry.layer.and_then(|_| layers.next());
        list.push(History {
            created: layer.map(time).or(epoch.map(|time| time.to_string())),
            created_by: Some(entry.created_by.clone()),
            comment: Some(HISTORY_COMMENT.to_owned()),
            empty_layer: layer.is_none(),
            ..History::default()
        });
    }
    // As in BuildKit the first layers get the lines there are, and the last ones an entry of their own.
    list.extend(new_layers[new_layers.len() - unaccounted..].iter().map(|new| History {
        created: Some(time(new)),
        created_by: Some(new.name.clone()),
        comment: Some("buildkit.exporter.image.v0".to_owned()),
        ..History::default()
    }));
    list
}

/// Entries without a time take that of the first new layer, later ones that of the entry before.
fn fill_times(history: &mut [History]) {
    let mut created = None;
    let mut seen_untimed = false;
    for entry in history.iter() {
        if entry.created.is_some() {
            created.clone_from(&entry.created);
            if seen_untimed {
                break;
            }
        } else {
            seen_untimed = true;
        }
    }
    let mut seen_untimed = false;
    for entry in history.iter_mut() {
        if entry.created.is_some() {
            if seen_untimed {
                created.clone_from(&entry.created);
            }
        } else {
            seen_untimed = true;
            entry.created.clone_from(&created);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(created: Option<&str>) -> History {
        History { created: created.map(str::to_owned), ..History::default() }
    }

    #[test]
    fn untimed_entries_take_the_next_new_layers_time_then_the_previous() {
        let mut history = [timed(Some("base")), timed(None), timed(Some("new")), timed(None)];
        fill_times(&mut history);
        let times: Vec<&str> = history.iter().map(|entry| entry.created.as_deref().unwrap()).collect();
        assert_eq!(times, ["base", "new", "new", "new"]);
    }

    #[test]
    fn base_history_accounts_for_all_layers() {
        let mut history = vec![timed(None)];
        balance_base_history(&mut history, 2);
        assert_eq!(history.iter().filter(|entry| !entry.empty_layer).count(), 2);
        let mut history = vec![timed(None), timed(None)];
        balance_base_history(&mut history, 1);
        assert_eq!(history.iter().filter(|entry| !entry.empty_layer).count(), 1);
    }
}
