//! The build context: walk, ignore, stat cache, content digests; git and http sources. Unaware of Dockerfiles and the store.
