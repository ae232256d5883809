//! Distribution client: auth, mirrors, pull, push, resume, retry. Unaware of the store and its disk layout.
//!
//! | File | Job |
//! |---|---|
//! | [`configuration`] | what the user's files say about registries, as data |
//! | `registries` | `registries.conf`: mirrors, insecure and blocked registries |
//! | `credentials` | docker and containers credential files, credential helpers |
//! | `challenge`, `auth` | `WWW-Authenticate`, tokens and their cache |
//! | `retry` | what is tried again, and when |
//! | `host`, `exchange` | one registry's TLS and scheme; one request with authorization |
//! | `client` | [`Client`]: options, endpoints in order |
//! | `resolve`, `download` | the pull verbs |
//! | `push`, `upload` | the push verbs; one blob's resumable upload |
//! | `login` | credentials asked about, kept and forgotten |
//! | `select` | platform choice from an index, pure |

mod auth;
mod challenge;
mod client;
pub mod configuration;
mod credentials;
mod download;
mod error;
mod exchange;
mod host;
mod login;
mod push;
mod registries;
mod resolve;
mod retry;
mod select;
mod upload;

pub use client::{Client, ClientOptions, Listener, Notice, Timeouts};
pub use configuration::{ConfigPaths, Configuration};
pub use credentials::Credential;
pub use download::Received;
pub use error::Error;
pub use login::{Kept, remove_login, store_login};
pub use push::Pushed;
pub use resolve::{Head, Resolved};
pub use retry::RetryPolicy;
pub use select::select;
