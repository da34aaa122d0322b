//! Fetching a file from a symbol server.

use crate::MAX_PDB_SIZE;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// How long a server may take to accept, and to begin to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a whole file may take.
const WHOLE: Duration = Duration::from_secs(600);

/// Writes what is at `url` to a new file. It is at most [`MAX_PDB_SIZE`] long.
pub(crate) fn fetch(url: &str, to: &Path) -> Result<(), String> {
    if cfg!(not(feature = "https")) && url.starts_with("https:") {
        return Err(
            "this build has no TLS: use an http:// server, or build with the feature `https`".to_owned(),
        );
    }
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_global(Some(WHOLE))
        .max_redirects(5)
        .build();
    let answer = ureq::Agent::new_with_config(config)
        .get(url)
        .call()
        .map_err(|error| match error {
            ureq::Error::StatusCode(404) => "not there".to_owned(),
            error => error.to_string(),
        })?;
    let body = answer.into_body().into_reader();
    let mut file = File::create_new(to).map_err(|error| error.to_string())?;
    let written = io::copy(&mut body.take(MAX_PDB_SIZE + 1), &mut file).map_err(|error| error.to_string())?;
    if written > MAX_PDB_SIZE {
        return Err(format!("its file is larger than {MAX_PDB_SIZE} bytes"));
    }
    file.sync_all().map_err(|error| error.to_string())
}
