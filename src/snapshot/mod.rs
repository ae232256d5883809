//! Layers <-> root filesystems: apply, diff, copy, tar; overlay and native snapshotters. Unaware of Dockerfiles, registries, processes.
