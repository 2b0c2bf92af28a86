//! Reading `/sys` (sysfs(5)).

use std::fs;
use std::path::Path;

/// What is in a directory; nothing, if there is none.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What a file says, without the blank space around it.
pub(super) fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
