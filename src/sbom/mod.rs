//! Package databases -> list of packages -> SPDX document. Pure: bytes in, bytes out; the same files always give the same
//! document. Unaware of images, layers and where files are.

mod apk;
mod cargo;
mod dpkg;
mod format;
mod inventory;
mod npm;
mod package;
mod python;
mod rpm;
mod spdx;

pub use format::{Format, format_of};
pub use inventory::Inventory;
pub use package::{Ecosystem, Package};
pub use spdx::{Subject, document};

/// What an SPDX document is as the predicate of a statement.
pub const SPDX_PREDICATE_TYPE: &str = "https://spdx.dev/Document";
