//! Dockerfile text -> typed tree with spans; word expansion; ignore patterns; lint rules.
//! Unaware of images, graphs and any IO.

mod diagnostic;
pub mod tree;

pub use diagnostic::Diagnostic;
pub use tree::{Dockerfile, Span, Word};
