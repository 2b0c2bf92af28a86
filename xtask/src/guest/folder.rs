//! The folder that host and guest share: the command goes in, its output and result come out.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::kernel::Kernel;

/// The folder of one guest; gone when it is dropped.
pub(super) struct Folder {
    directory: TempDir,
    stdout: File,
    stderr: File,
}

impl Folder {
    /// A folder with the command in it, which runs where we are and with our environment, to which
    /// `environment` is added.
    pub(super) fn new(
        kernel: &Kernel,
        command: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("underpass-guest-").tempdir()?;
        let shared = directory.path().join("shared");
        fs::create_dir(&shared)?;
        fs::write(shared.join("session.sh"), include_str!("session.sh"))?;
        fs::write(shared.join("command.sh"), script(command, environment)?)?;
        let modules = kernel.modules.join("lib/modules");
        fs::write(shared.join("modules"), modules.as_os_str().as_bytes())?;
        File::create(shared.join("stdout"))?;
        File::create(shared.join("stderr"))?;
        Ok(Self {
            stdout: File::open(shared.join("stdout"))?,
            stderr: File::open(shared.join("stderr"))?,
            directory,
        })
    }

    /// For files of the host.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What the guest sees.
    pub(super) fn shared(&self) -> PathBuf {
        self.path().join("shared")
    }

    /// What the kernel prints on its serial line: warnings and worse.
    pub(super) fn console(&self) -> PathBuf {
        self.path().join("console")
    }

    /// Has the command run on the serial line as its terminal, with these arguments of stty.
    pub(super) fn use_terminal(&self, stty: &str) -> Result<()> {
        fs::write(self.shared().join("terminal"), stty).context("terminal")
    }

    /// Passes on what the command has written since the last call.
    pub(super) fn copy_output(&mut self) -> Result<()> {
        io::copy(&mut self.stdout, &mut io::stdout())?;
        io::copy(&mut self.stderr, &mut io::stderr())?;
        io::stdout().flush().context("standard output")
    }

    /// The command's exit code, if it has come to an end.
    pub(super) fn code(&self) -> Result<Option<u8>> {
        match fs::read_to_string(self.shared().join("code")) {
            Ok(code) => code.trim().parse().map(Some).context("the guest's exit code"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("the guest's exit code"),
        }
    }

    /// The whole kernel log if the command has come to an end, else what came over the serial line.
    pub(super) fn kernel_log(&self) -> Result<String> {
        let whole = self.shared().join("dmesg");
        let path = if self.code()?.is_some() { whole } else { self.console() };
        let log = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(String::from_utf8_lossy(&log).replace('\r', ""))
    }
}

/// A shell script that becomes the command.
fn script(command: &[OsString], environment: &[(OsString, OsString)]) -> Result<Vec<u8>> {
    let mut script = b"cd ".to_vec();
    script.extend(quoted(env::current_dir().context("the current folder")?.as_os_str())?);
    script.extend(b" || exit\nexec env --ignore-environment");
    let ours = env::vars_os();
    for (name, value) in ours.chain(environment.iter().cloned()) {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        script.push(b' ');
        script.extend(quoted(&variable)?);
    }
    for word in command {
        script.push(b' ');
        script.extend(quoted(word)?);
    }
    script.push(b'\n');
    Ok(script)
}

fn quoted(word: &OsStr) -> Result<Vec<u8>> {
    match shlex::bytes::try_quote(word.as_bytes()) {
        Ok(quoted) => Ok(quoted.into_owned()),
        Err(_) => bail!("{} has a zero byte inside", word.display()),
    }
}
