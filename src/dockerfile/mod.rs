//! Dockerfile text -> typed tree with spans; word expansion; ignore patterns; lint rules.
//! Unaware of images, graphs and any IO.
//!
//! | File | Job |
//! |---|---|
//! | [`tree`] | what a Dockerfile says |
//! | `parse` | text -> tree |
//! | [`expand`] | variables, quotes and escapes in words |
//! | [`mount`], [`device`], [`ports`], [`chmod`], [`signal`], [`duration`] | the small languages of flags and arguments |
//! | [`ignore`] | `.dockerignore` and `--exclude` |
//! | [`glob`] | paths and single-path patterns |
//! | [`git_reference`] | repositories as sources |
//! | [`lint`] | what is allowed but unwise |
//! | [`outline`] | what a target asks for: args, secrets, ssh |
//! | [`redact`] | URLs as people may see them |
//! | [`suggest`], [`quote`], [`position`] | for messages |

pub mod chmod;
mod csv;
pub mod device;
mod diagnostic;
pub mod duration;
mod environment;
pub mod expand;
pub mod git_reference;
pub mod glob;
pub mod ignore;
pub mod lint;
pub mod mount;
mod number;
pub mod outline;
mod parse;
pub mod ports;
pub mod position;
pub mod print;
pub mod quote;
pub mod redact;
pub mod scope;
pub mod signal;
pub mod spans;
pub mod suggest;
pub mod tree;

pub use diagnostic::{Diagnostic, trigger_label};
pub use environment::{Environment, NOT_VARIABLES};
pub use number::parse_bool;
pub use parse::{parse, parse_trigger};
pub use position::{column_of, line_of};
pub use print::print;
pub use suggest::nearest;
pub use tree::{Dockerfile, Span, Word};
