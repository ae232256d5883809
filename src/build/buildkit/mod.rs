//! Caches that BuildKit wrote, read for what they know of our steps.
//!
//! Such a cache is a list of records. A record's digest is that of an operation (`go` has the forms that are hashed); it
//! is linked to the records of the operation's inputs, or to the digests of the files that the operation uses of them. To
//! find a step there, the operations are formed that BuildKit's Dockerfile frontend would form of it (`keys`, `files`),
//! and the records are followed from the base images up (`find`). Files are digested as BuildKit does it
//! ([`crate::snapshot::copy::tarsum`]).
//!
//! | Operation | Found by |
//! |---|---|
//! | FROM | digest of what its name leads to with the platform, or chain of layers |
//! | RUN | command, variables, user, directory, network, mounts and their options, platform; its root by the record |
//! | RUN --mount of a stage | the stage's record and the paths |
//! | RUN --mount, COPY and ADD of a context | the digest of the files used |
//! | COPY --from | the stage's record and the paths |
//! | COPY --link | the copy's own record, then that of the merge with what is below |
//! | heredocs | the text |
//! | WORKDIR | path, user, epoch |
//!
//! Misses, always: ADD of URLs and repositories (known by what servers say), contexts that are fetched, cache mounts with a
//! mode or an owner, steps under `--add-host`, `--ulimit` or `--shm-size`, files with attributes, pipes, devices, a stage
//! that was made otherwise but has the same files, and whatever stands on a step that was missed.
//!
//! Keys are those of BuildKit since 0.18, of 0.13 to 0.16, and of 0.12 (`go::Era`); compared with caches of 0.12.5, 0.16.0
//! and of August 2026 (after 0.32.2). Patterns, `--exclude` and `--parents` are found in caches since 0.26 only: before,
//! different trees could have one digest.
//!
//! A result is a chain of layers from the base up. A layer of it is taken for a step only if the chain is as long as the
//! step is high above its base, and if all below is what the step stands on in this build, layer by layer. A cache of mode
//! min has layers for the last step only: what is below them are those of the steps before, where the record says that
//! it was made on exactly these.
//!
//! Nobody is named as the writer of such a record: it is a stranger's.

mod files;
mod find;
mod go;
mod graph;
mod keys;
#[cfg(test)]
mod tests;

pub(super) use self::find::Lookup;
pub use self::graph::Graph;
