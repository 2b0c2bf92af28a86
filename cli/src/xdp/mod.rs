//! `underpass xdp`: the program on an interface, from outside of the process that attached it.

mod stats;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};
use underpass::devices::{Action, IpSelector, Rate, Rule, RuleMatch, Selector, Service};
use underpass_drivers::xdp::{ProgramInfo, XdpControl};

use crate::interval::seconds;

/// Arguments of `xdp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what goes to the stack, and the rules
    Show {
        /// Interface with a stack on it, such as eth1
        interface: String,
    },
    /// Keep packets, in spite of a rule for a shorter prefix or for less
    Allow {
        /// Interface with a stack on it
        interface: String,
        /// SOURCE[,PROTOCOL[/PORT]], such as 192.0.2.0/24 or ::/0,udp/53; the port is the
        /// destination's
        #[arg(value_name = "PACKETS")]
        matches: RuleMatch,
        /// No more from each address than so many packets per second, and so many at once:
        /// PER_SECOND[/BURST]
        #[arg(long)]
        rate: Option<Rate>,
        /// Take the rule for exactly these packets away
        #[arg(long, conflicts_with = "rate")]
        remove: bool,
    },
    /// Drop packets before they cost anything, the kernel's as well as the stack's
    Deny {
        /// Interface with a stack on it
        interface: String,
        /// SOURCE[,PROTOCOL[/PORT]], such as 192.0.2.0/24 or ::/0,udp/53; the port is the
        /// destination's
        #[arg(value_name = "PACKETS")]
        matches: RuleMatch,
        /// Take the rule for exactly these packets away
        #[arg(long)]
        remove: bool,
    },
    /// Count what goes to the stack, to the kernel and nowhere, rule by rule, until Ctrl-C
    Stats {
        /// Interface with a stack on it
        interface: String,
        /// Seconds between two tables
        #[arg(short, long, default_value = "1", value_parser = seconds)]
        interval: Duration,
        /// Stop after this many tables
        #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
    },
}

/// Asks or changes the program.
pub(crate) async fn run(args: &Args, json: bool) -> Result<ExitCode> {
    match &args.command {
        Command::Show { interface } => {
            show(&XdpControl::of_interface(interface)?, interface, json)?;
        }
        Command::Allow { interface, matches, rate, remove } => {
            let action = rate.map_or(Action::Allow, Action::Limit);
            change(interface, Rule { matches: *matches, action }, *remove)?;
        }
        Command::Deny { interface, matches, remove } => {
            change(interface, Rule { matches: *matches, action: Action::Deny }, *remove)?;
        }
        Command::Stats { interface, interval, count } => {
            stats::run(interface, *interval, *count, json).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn change(interface: &str, rule: Rule, remove: bool) -> Result<()> {
    let mut control = XdpControl::of_interface(interface)?;
    if remove {
        control.remove(&rule.matches)?;
    } else {
        control.insert(rule)?;
    }
    Ok(())
}

fn show(control: &XdpControl, interface: &str, json: bool) -> Result<()> {
    let program = control.program()?;
    let rules = control.rules()?;
    let mut steered: Vec<_> = program.selectors.iter().map(selector).collect();
    steered.sort();
    if json {
        println!("{}", object(interface, &program, &steered, &json!(rules)));
        return Ok(());
    }
    println!("{interface}: XDP program {}, a stack at {}", program.id, program.mac);
    if let Some(vlan) = program.vlan {
        println!("VLAN {vlan}");
    }
    println!();
    println!("to the stack:");
    if program.takes_all {
        println!("  every frame");
    }
    for line in &steered {
        println!("  {line}");
    }
    println!();
    println!("rules:");
    if rules.is_empty() {
        println!("  none");
    }
    for report in &rules {
        let Rule { matches, action } = report.rule;
        println!("  {:<40} {}", matches.to_string(), describe(action));
    }
    Ok(())
}

fn object(interface: &str, program: &ProgramInfo, steered: &[String], rules: &Value) -> Value {
    json!({
        "interface": interface,
        "program": program.id,
        "mac": program.mac.to_string(),
        "vlan": program.vlan,
        "takes_all": program.takes_all,
        "steered": steered,
        "rules": rules,
    })
}

/// One line for what goes to the stack.
fn selector(selector: &Selector) -> String {
    match selector {
        Selector::EtherType(ether_type) => format!("EtherType {ether_type:#06x}"),
        Selector::Tagged(vlan, ether_type) => format!("VLAN {vlan}, EtherType {ether_type:#06x}"),
        Selector::Ip(IpSelector { to, protocol, port }) => {
            let to = to.map_or("any address".to_owned(), |to| to.to_string());
            match protocol {
                None => to,
                Some(protocol) => format!("{to}, {}", Service { protocol: *protocol, port: *port }),
            }
        }
        other => format!("{other:?}"),
    }
}

/// What a rule does.
fn describe(action: Action) -> String {
    match action {
        Action::Allow => "allow".to_owned(),
        Action::Deny => "deny".to_owned(),
        Action::Limit(rate) => format!("allow {rate} per second"),
    }
}
