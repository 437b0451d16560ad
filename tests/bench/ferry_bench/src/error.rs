// SPDX-License-Identifier: GPL-2.0

//! Errors of the benchmark, with texts that say what to do next.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{call}: {source}")]
    Call {
        call: &'static str,
        source: io::Error,
    },
    #[error("{0}")]
    Unusable(String),
}

pub type Result<T> = std::result::Result<T, Error>;

pub fn in_call(call: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Call { call, source }
}
