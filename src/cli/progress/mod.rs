//! Printers of a build's events.

mod plain;
mod quiet;
mod rawjson;

pub use plain::Plain;
pub use quiet::Quiet;
pub use rawjson::RawJson;
