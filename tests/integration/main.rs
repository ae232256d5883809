//! The real binary against a real registry, as root and as an unprivileged user. `support` has what the tests stand on.

mod agreement;
mod bad_input;
mod builds;
mod cache;
mod cache_mounts;
mod caches;
mod checks;
mod collect;
mod concurrency;
mod determinism;
mod disk;
mod evil_layers;
mod examples;
mod faults;
mod kaniko;
mod kills;
mod outputs;
mod platforms;
mod push;
mod recipes;
mod regressions;
mod run;
mod signals;
mod sources;
mod support;
mod verbs;
