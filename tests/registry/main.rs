//! The registry client: against Debian's real `docker-registry`, against scripted answers, over a bad network.

mod auth;
mod content;
mod fake;
mod flaky_proxy;
mod pull;
mod push;
mod real;
mod real_registry;
mod retry_after;
mod tls;
