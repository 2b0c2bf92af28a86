//! The virtual machine: QEMU and its limits.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::folder::Folder;
use super::kernel::{Choice, Kernel};
use super::terminal::Terminal;
use super::{cache, initramfs, interrupt, kernel_log, terminal};

/// What a machine has.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Machine {
    #[command(flatten)]
    pub(super) kernel: Choice,
    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub(super) memory: u32,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(super) cpus: u32,
    /// More arguments for QEMU, such as network cards; may be repeated
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(super) nic: Vec<String>,
    /// More parameters for the kernel
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    pub(super) append: String,
}

/// A command to run in a machine.
pub(super) struct Job<'a> {
    /// The program and its arguments.
    pub(super) command: &'a [OsString],
    /// What is added to our environment.
    pub(super) environment: &'a [(OsString, OsString)],
    /// How long machine and command may take.
    pub(super) limit: Duration,
}

/// How a command has ended in a machine that has come to an orderly end.
pub(super) struct Outcome {
    /// The command's exit code.
    pub(super) code: u8,
    /// The lines of the kernel log that should not be there.
    complaints: Vec<String>,
    log: PathBuf,
}

impl Outcome {
    /// What the kernel complained of.
    pub(super) fn complaint(&self) -> Option<String> {
        (!self.complaints.is_empty()).then(|| {
            let lines = self.complaints.join("\n  ");
            format!("the guest's kernel complains ({}):\n  {lines}", self.log.display())
        })
    }
}

/// Time between two looks at a machine.
const TICK: Duration = Duration::from_millis(20);
/// Lines of a kernel log that are shown when a machine dies.
const LAST_WORDS: usize = 30;

impl Machine {
    /// Boots, runs the command, passes its output on, and saves the kernel log.
    ///
    /// # Errors
    /// A machine that ends without the command's exit code: by a panic, or at the time limit.
    pub(super) fn run(&self, job: &Job<'_>) -> Result<Outcome> {
        let kernel = Kernel::get(self.kernel)?;
        let mut folder = Folder::new(&kernel, job.command, job.environment)?;
        let serial = format!("file:{}", folder.console().display());
        let mut qemu = Process::start(self.qemu(&kernel, &folder, &serial)?.stdin(Stdio::null()))?;
        let start = Instant::now();
        let end = loop {
            let ended = qemu.ended()?;
            folder.copy_output()?;
            interrupt::check()?;
            if ended.is_some() || start.elapsed() > job.limit {
                break ended;
            }
            sleep(TICK);
        };
        drop(qemu);
        let log = folder.kernel_log()?;
        let path = save(&log)?;
        let complaints = kernel_log::complaints(&log).map(str::to_owned).collect();
        match (folder.code()?, end) {
            (Some(code), Some(_)) => Ok(Outcome { code, complaints, log: path }),
            (_, end) => bail!(last_words(end, job.limit, &log, &complaints)),
        }
    }

    /// Boots, and puts a shell on this terminal; returns its exit code.
    pub(super) fn shell(&self) -> Result<u8> {
        let kernel = Kernel::get(self.kernel)?;
        let shell = ["bash".into(), "-i".into()];
        let folder = Folder::new(&kernel, &shell, &[])?;
        let _terminal = Terminal::new()?;
        folder.use_terminal(&terminal::stty()?)?;
        let mut qemu = Process::start(&mut self.qemu(&kernel, &folder, "mon:stdio")?)?;
        while qemu.ended()?.is_none() {
            interrupt::check()?;
            sleep(TICK);
        }
        // Without one it was ended from the terminal.
        Ok(folder.code()?.unwrap_or(0))
    }

    fn qemu(&self, kernel: &Kernel, folder: &Folder, serial: &str) -> Result<Command> {
        let initramfs = initramfs::build(kernel, folder.path())?;
        // Should we be killed, it must not go on.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // Not what is quickest: it is to behave alike everywhere. DPDK needs SSE4.2.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
        let memory = self.memory + kernel.memory;
        qemu.args(["-m", &memory.to_string(), "-smp", &self.cpus.to_string()]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-nic", "none"]);
        qemu.args(["-display", "none", "-serial", serial]);
        qemu.args(["-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
        qemu.args([
            "-fsdev",
            "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        ]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        // A comma is doubled in QEMU's options.
        let shared = folder.shared().display().to_string().replace(',', ",,");
        qemu.args(["-fsdev", &format!("local,id=guest,path={shared},security_model=none")]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=guest,mount_tag=guest"]);
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        qemu.args(["-append", &self.parameters(kernel)]);
        for args in &self.nic {
            qemu.args(shlex::split(args).with_context(|| format!("--nic {args}: unbalanced"))?);
        }
        Ok(qemu)
    }

    /// Kernel parameters: Documentation/admin-guide/kernel-parameters.txt. A bug ends the machine.
    fn parameters(&self, kernel: &Kernel) -> String {
        let log = "console=ttyS0 loglevel=5 log_buf_len=4M panic=-1 oops=panic";
        let emulated = "tsc=reliable no_timer_check mitigations=off";
        format!("{log} {emulated} {} {}", kernel.parameters, self.append)
    }
}

/// Keeps the log where it can be looked at.
fn save(log: &str) -> Result<PathBuf> {
    let path = cache::folder()?.join("dmesg");
    fs::write(&path, log).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn last_words(
    end: Option<ExitStatus>,
    limit: Duration,
    log: &str,
    complaints: &[String],
) -> String {
    let panic = complaints.iter().find(|line| line.contains("Kernel panic"));
    let mut text = match (end, panic) {
        (_, Some(panic)) => format!("the guest's kernel died: {panic}"),
        (None, None) => format!("no result after {} s: the guest was ended", limit.as_secs()),
        (Some(status), None) => format!("the guest ended without a result: QEMU's {status}"),
    };
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
    let words = complaints.iter().map(String::as_str).chain(["its last words:"]);
    for line in words.chain(last.iter().copied()) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {line}");
    }
    text
}

/// QEMU, which ends when this is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().context("setpriv: apt-get install util-linux")?;
        Ok(Self(child))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("waiting for QEMU")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails if the process has ended, which is all that is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
