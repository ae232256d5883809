//! rbuild turns a Dockerfile into an OCI image: one binary, no daemon, no root, no set-up.
//!
//! A room is a folder here. A room may use only rooms on lower floors, and none of its neighbours;
//! `tests/architecture.rs` holds that.
//!
//! | Floor | Room | Job in one line | Unaware of |
//! |---|---|---|---|
//! | 0 | [`dockerfile`] | text -> typed tree with spans; word expansion; ignore patterns; lint rules | images, graphs, any IO |
//! | 0 | [`oci`] | references, digests, platforms, manifests, config, history | where bytes live |
//! | 0 | [`sys`] | the kernel door: the only `unsafe`; paths resolved beneath a root fd | images, builds |
//! | 1 | [`plan`] | tree + args + base configs -> build graph; pure | IO, clock, environment |
//! | 1 | [`sbom`] | package databases -> list of packages -> SPDX document; pure | images, layers, where files are |
//! | 2 | [`context`] | the build context: walk, ignore, stat cache, content digests; git and http sources | Dockerfile, store |
//! | 2 | [`registry`] | distribution client: auth, mirrors, pull, push, resume, retry | store, disk layout |
//! | 2 | [`store`] | content-addressed blobs, snapshots' home, step cache, locks, GC | registry, layer contents |
//! | 2 | [`snapshot`] | layers <-> root filesystems: apply, diff, copy, tar; overlay and native | Dockerfile, registry, processes |
//! | 2 | [`sandbox`] | run one process in a root filesystem | images, layers, Dockerfile |
//! | 3 | [`build`] | scheduler, executor, cache look-up, progress events: `Plan` -> `Image` | terminal, flags |
//! | 3 | [`export`] | `Image` -> destination | plan, sandbox |
//! | 4 | [`cli`] | arguments, printers, exit codes | - |

pub mod build;
pub mod cli;
pub mod context;
pub mod dockerfile;
pub mod export;
pub mod oci;
pub mod plan;
pub mod registry;
pub mod sandbox;
pub mod sbom;
pub mod snapshot;
pub mod store;
pub mod sys;
