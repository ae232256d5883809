//! Content-addressed blobs, the snapshots' home, step cache, locks, GC. Unaware of registries and of what layers hold.
