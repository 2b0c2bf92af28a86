//! The served directory: which file a request path names.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// A directory that is served; nothing outside of it can be reached through it.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

/// What a request path names.
#[derive(Debug)]
pub(super) enum Entry {
    /// A regular file, open for reading.
    File {
        /// The file.
        file: File,
        /// Its size and time.
        stat: Stat,
        /// Its path below the root, for the MIME type.
        path: PathBuf,
    },
    /// A directory without `index.html`: what is in it, sorted, directories with a final `/`.
    Listing(Vec<OsString>),
    /// A directory, named without a final `/`.
    Unslashed,
}

impl Root {
    /// Opens `dir`.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(dir, flags, Mode::empty())?))
    }

    /// What the path of a request (`/a/b%20c`, without a query) names. The kernel resolves it
    /// beneath the root (openat2(2), RESOLVE_BENEATH), so neither `..` nor a symbolic link leads
    /// out of it, not even one that is changed meanwhile.
    ///
    /// # Errors
    /// `NotFound` for everything that is not served, whatever the reason: a client learns nothing
    /// of what is outside.
    pub(super) fn entry(&self, url_path: &str) -> io::Result<Entry> {
        let path = decode(url_path)?;
        let fd = self.open_beneath(&path)?;
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let file = File::from(fd);
                Ok(Entry::File { file, stat, path })
            }
            FileType::Directory if !url_path.ends_with('/') => Ok(Entry::Unslashed),
            FileType::Directory => self.index(&path, &fd),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn index(&self, dir: &Path, fd: &OwnedFd) -> io::Result<Entry> {
        let path = dir.join("index.html");
        if let Ok(index) = self.open_beneath(&path) {
            let stat = rustix::fs::fstat(&index)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                let file = File::from(index);
                return Ok(Entry::File { file, stat, path });
            }
        }
        Ok(Entry::Listing(list(fd)?))
    }

    fn open_beneath(&self, path: &Path) -> io::Result<OwnedFd> {
        // NONBLOCK: opening a FIFO must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)
            .map_err(|_| io::ErrorKind::NotFound.into())
    }
}

/// The path below the root that a request path stands for.
fn decode(url_path: &str) -> io::Result<PathBuf> {
    let bytes: Vec<u8> = percent_decode_str(url_path.trim_start_matches('/')).collect();
    if bytes.contains(&0) || bytes.starts_with(b"/") {
        return Err(io::ErrorKind::NotFound.into());
    }
    if bytes.is_empty() {
        return Ok(PathBuf::from("."));
    }
    Ok(OsString::from_vec(bytes).into())
}

/// Names in a directory, sorted, hidden ones left out.
fn list(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        if entry.file_name().to_bytes().starts_with(b".") {
            continue;
        }
        let mut name = CString::from(entry.file_name()).into_bytes();
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            // A link, or a file system that does not tell.
            FileType::Symlink | FileType::Unknown => {
                rustix::fs::statat(dir, entry.file_name(), AtFlags::empty())
                    .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
            }
            _ => false,
        };
        if is_dir {
            name.push(b'/');
        }
        names.push(OsString::from_vec(name));
    }
    names.sort();
    Ok(names)
}
