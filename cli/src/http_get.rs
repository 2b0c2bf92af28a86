//! `underpass http-get`

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;
use underpass::Stack;

use crate::attach::Attachment;
use crate::fetch::{Download, Url};
use crate::host;
use crate::interrupt::interrupted;
use crate::server::stop;

/// Arguments of `http-get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to fetch, such as `http://example.com/file` or `http://[fd00::1]:8080/file`
    #[arg(value_parser = |text: &str| text.parse::<Url>().map_err(|e| format!("{e:#}")))]
    url: Url,
    #[command(flatten)]
    attachment: Attachment,
    /// File to write, `-` for standard output; by default the name in the URL, if there is no such
    /// file yet
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Fetches one file.
pub(crate) async fn run(args: &Args, json: bool) -> Result<ExitCode> {
    args.attachment.check_host(&args.url.host)?;
    let interrupted = interrupted()?;
    let stack = args.attachment.stack()?;
    let result = tokio::select! {
        result = fetch(args, &stack, json) => result.map(|()| ExitCode::SUCCESS),
        () = interrupted => {
            eprintln!("interrupted");
            Ok(ExitCode::from(130))
        }
    };
    stop(stack).await;
    result
}

async fn fetch(args: &Args, stack: &Stack, json: bool) -> Result<()> {
    args.attachment.configured(stack).await?;
    let start = Instant::now();
    let stream = host::connect(stack, &args.url.host, args.url.port).await?;
    let connected = start.elapsed();
    let mut download =
        Download::start(stream, &args.url).await.with_context(|| args.url.to_string())?;
    // Only now: an error leaves no empty file behind.
    let mut output = Output::open(args)?;
    let bar = progress(download.len());
    while let Some(data) = download.next().await.with_context(|| args.url.to_string())? {
        output.write(&data)?;
        bar.inc(data.len() as u64);
    }
    bar.finish_and_clear();
    report(args, bar.position(), connected, start.elapsed(), json);
    Ok(())
}

/// A progress bar on standard error, for `len` bytes if that is known; hidden unless it is a
/// terminal.
pub(crate) fn progress(len: Option<u64>) -> ProgressBar {
    let template = match len {
        Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {binary_bytes_per_sec} {elapsed}",
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    len.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style)
}

fn report(args: &Args, bytes: u64, connected: Duration, time: Duration, json: bool) {
    let seconds = time.as_secs_f64();
    let rate = bytes as f64 * 8.0 / seconds;
    if json {
        let report = json!({
            "url": args.url.to_string(),
            "bytes": bytes,
            "connect_seconds": connected.as_secs_f64(),
            "seconds": seconds,
            "bits_per_second": rate,
        });
        // Standard output may be the file itself.
        match &args.output {
            Some(path) if path.as_os_str() == "-" => eprintln!("{report}"),
            _ => println!("{report}"),
        }
    } else {
        eprintln!(
            "{} ({bytes} bytes) in {seconds:.3} s, {:.3} Gbit/s",
            HumanBytes(bytes),
            rate / 1e9
        );
    }
}

/// Where the data goes.
enum Output {
    Stdout,
    File(File, PathBuf),
}

impl Output {
    fn open(args: &Args) -> Result<Self> {
        let (path, file) = match &args.output {
            Some(path) if path.as_os_str() == "-" => {
                if io::stdout().is_terminal() {
                    bail!("-o -: standard output is a terminal; redirect it, or name a file");
                }
                return Ok(Self::Stdout);
            }
            Some(path) => (path.clone(), File::create(path)),
            None => {
                let name = args.url.file_name();
                let path = PathBuf::from(name.context("the URL names no file: add -o FILE")?);
                let file = File::create_new(&path);
                (path, file)
            }
        };
        let file = file.with_context(|| format!("{}; choose another with -o", path.display()))?;
        Ok(Self::File(file, path))
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::Stdout => io::stdout().write_all(data).context("writing to standard output"),
            Self::File(file, path) => {
                file.write_all(data).with_context(|| format!("writing {}", path.display()))
            }
        }
    }
}
