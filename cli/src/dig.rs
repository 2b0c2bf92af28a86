//! `underpass dig`

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use underpass::{Answer, Record, RecordData, RecordType};

use crate::attach::Attachment;
use crate::host::with_remedy;
use crate::interrupt::interrupted;
use crate::server::stop;

/// Arguments of `dig`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name, type of record (A, the default, or AAAA) and @SERVER (an IP address, instead of those
    /// of --dns), in any order
    #[arg(value_names = ["NAME", "TYPE", "@SERVER"], num_args = 1..=3, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    attachment: Attachment,
}

/// Looks up one name and prints what was answered.
pub(crate) async fn run(args: &Args, json: bool) -> Result<ExitCode> {
    let question = Question::parse(&args.words)?;
    let mut attachment = args.attachment.clone();
    if let Some(server) = question.server {
        attachment.dns = vec![server];
    }
    let interrupted = interrupted()?;
    let stack = attachment.stack()?;
    let resolver = stack.resolver();
    let answer = async {
        attachment.configured(&stack).await?;
        let start = Instant::now();
        match resolver.lookup(&question.name, question.kind).await {
            Ok(answer) => Ok((answer, start)),
            Err(error) => Err(with_remedy(error.into())),
        }
    };
    let result = tokio::select! {
        answer = answer => match answer {
            Ok((answer, start)) => {
                print(&question, &answer, start.elapsed(), json);
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => Err(error),
        },
        () = interrupted => Ok(ExitCode::from(130)),
    };
    drop(resolver);
    stop(stack).await;
    result
}

/// What is asked, and whom.
#[derive(Debug, PartialEq)]
struct Question {
    name: String,
    kind: RecordType,
    server: Option<IpAddr>,
}

impl Question {
    fn parse(words: &[String]) -> Result<Self> {
        let (mut name, mut kind, mut server) = (None, None, None);
        for word in words {
            let second = if let Some(address) = word.strip_prefix('@') {
                let ip = address.parse().with_context(|| {
                    format!("{word}: the server has to be given by its IP address")
                })?;
                server.replace(ip).is_some()
            } else if let Some(known) = record_type(word) {
                kind.replace(known).is_some()
            } else {
                name.replace(word.clone()).is_some()
            };
            if second {
                bail!("'{word}' is one too many: give a NAME, A or AAAA, and @SERVER");
            }
        }
        let name = name.context("no name to look up")?;
        Ok(Self { name, kind: kind.unwrap_or(RecordType::A), server })
    }
}

fn record_type(word: &str) -> Option<RecordType> {
    match word.to_ascii_uppercase().as_str() {
        "A" => Some(RecordType::A),
        "AAAA" => Some(RecordType::Aaaa),
        _ => None,
    }
}

fn print(question: &Question, answer: &Answer, time: Duration, json: bool) {
    let millis = time.as_secs_f64() * 1e3;
    if json {
        let records: Vec<_> = answer
            .records
            .iter()
            .map(|record| {
                let (kind, data) = text(record);
                json!({ "name": record.name, "ttl": record.ttl, "type": kind, "data": data })
            })
            .collect();
        let report = json!({
            "name": question.name,
            "type": question.kind.to_string(),
            "answers": records,
            "server": answer.server.map(|server| server.to_string()),
            "milliseconds": millis,
        });
        println!("{report}");
        return;
    }
    for record in &answer.records {
        let (kind, data) = text(record);
        println!("{}.\t{}\tIN\t{kind}\t{data}", record.name, record.ttl);
    }
    match answer.server {
        Some(server) => println!(";; {server} answered in {millis:.1} ms"),
        None => println!(";; a name with a fixed address: no server was asked"),
    }
}

/// Type and data as they are in a zone file.
fn text(record: &Record) -> (&'static str, String) {
    match &record.data {
        RecordData::A(ip) => ("A", ip.to_string()),
        RecordData::Aaaa(ip) => ("AAAA", ip.to_string()),
        RecordData::Cname(name) => ("CNAME", format!("{name}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Question> {
        let words: Vec<String> = words.split(' ').map(ToOwned::to_owned).collect();
        Question::parse(&words)
    }

    #[test]
    fn words_come_in_any_order() {
        let question = parse("@10.0.0.1 aaaa host.test").unwrap();
        assert_eq!(question, parse("host.test AAAA @10.0.0.1").unwrap());
        assert_eq!((question.kind, question.name.as_str()), (RecordType::Aaaa, "host.test"));
        assert_eq!(parse("host.test").unwrap().kind, RecordType::A);
        for (words, cause) in [
            ("a.test b.test", "one too many"),
            ("A AAAA", "one too many"),
            ("@10.0.0.1", "no name"),
            ("a.test @ns.test", "IP address"),
        ] {
            let error = format!("{:#}", parse(words).unwrap_err());
            assert!(error.contains(cause), "{words}: {error}");
        }
    }
}
