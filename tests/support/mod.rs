//! Helpers of the integration tests.

pub mod flaky_proxy;
pub mod real_registry;
