//! Dockerfile text -> typed tree with spans; word expansion; ignore patterns; lint rules.
//! Unaware of images, graphs and any IO.
//!
//! | File | Job |
//! |---|---|
//! | [`tree`] | what a Dockerfile says |
//! | `parse` | text -> tree |
//! | [`expand`] | variables, quotes and escapes in words |
//! | [`mount`], [`device`], [`ports`], [`chmod`], [`signal`], [`duration`] | the small languages of flags and arguments |
//! | [`glob`] | paths and single-path patterns |
//! | [`suggest`], [`quote`], [`position`] | for messages |

mod csv;
pub mod device;
mod diagnostic;
pub mod duration;
pub mod expand;
pub mod glob;
pub mod mount;
mod number;
mod parse;
pub mod position;
pub mod quote;
pub mod spans;
pub mod suggest;
pub mod tree;

pub use diagnostic::Diagnostic;
pub use parse::{parse, parse_trigger};
pub use position::{column_of, line_of};
pub use tree::{Dockerfile, Span, Word};
