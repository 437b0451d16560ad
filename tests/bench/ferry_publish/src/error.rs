// SPDX-License-Identifier: GPL-2.0

//! Errors of publishing, with texts that say what to do next.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{name}: no results of ferry_bench or ferry_native: {source}")]
    Format {
        name: String,
        source: serde_json::Error,
    },
    #[error("{name}: not to be published: {reason}")]
    Refused { name: String, reason: String },
    #[error("{path}: {reason}")]
    Document { path: PathBuf, reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

pub fn in_file(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::File {
        path: path.into(),
        source,
    }
}
