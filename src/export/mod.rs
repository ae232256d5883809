//! `Image` -> destination: registry, OCI layout, docker archive, tar, local, cache. Unaware of plans and sandboxes.
