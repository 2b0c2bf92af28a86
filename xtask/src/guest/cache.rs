//! What takes long to get and is kept: `target/guest`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::root;

/// The folder of the cache, which is made if it is not there.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = root().join("target/guest");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    folder.canonicalize().with_context(|| folder.display().to_string())
}

/// Holds what is called `name` for one process, until the file is dropped.
pub(super) fn lock(name: &str) -> Result<File> {
    let path = folder()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.lock().with_context(|| path.display().to_string())?;
    Ok(file)
}

/// The folder `name` of the cache. If it is not there, `fill` is given an empty one, which gets that
/// name once it is full.
pub(super) fn once(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let _lock = lock(name)?;
    let cache = folder()?;
    let path = cache.join(name);
    if !path.is_dir() {
        let part = tempfile::Builder::new().prefix(name).suffix(".part").tempdir_in(&cache)?;
        fill(part.path())?;
        fs::rename(part.path(), &path).with_context(|| path.display().to_string())?;
    }
    Ok(path)
}
