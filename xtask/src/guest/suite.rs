//! Suites of tests that run in the guest, each in one boot: programs that are built here, and a
//! script (`suite/NAME.sh`) that prepares the machine and runs them.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use super::kernel::{Choice, Kernel};
use super::machine::{Job, Machine};
use super::module;
use super::program::{Program, Target};
use crate::test::name;

/// A suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Our kernel module
    Kmod,
    /// DPDK's poll-mode drivers on PCI cards
    Dpdk,
    /// RDMA by Soft-RoCE
    Rdma,
}

/// What a suite takes.
struct Plan {
    programs: &'static [Program],
    /// Run by bash in the guest, with each program in its variable and `$MODULE` if it is built.
    script: &'static str,
    /// The kernel module is built, and named by `$MODULE`.
    module: bool,
    /// Arguments of QEMU.
    nics: &'static [&'static str],
    /// In MiB.
    memory: u32,
    /// For boot and script, several times what a quiet machine takes.
    limit: Duration,
}

impl Suite {
    fn plan(self) -> Plan {
        match self {
            Self::Kmod => Plan {
                programs: &[
                    Program {
                        variable: "DRIVER_TESTS",
                        folder: "drivers",
                        target: Target::Test("kring"),
                    },
                    Program {
                        variable: "HOSTILE_TESTS",
                        folder: "drivers",
                        target: Target::Test("kring_hostile"),
                    },
                    Program {
                        variable: "UNDERPASS",
                        folder: "cli",
                        target: Target::Binary("underpass"),
                    },
                    Program {
                        variable: "COMMAND_TESTS",
                        folder: "cli",
                        target: Target::Test("kring"),
                    },
                ],
                script: include_str!("suite/kmod.sh"),
                module: true,
                nics: &[],
                memory: 1536,
                limit: Duration::from_secs(600),
            },
            Self::Dpdk => Plan {
                programs: &[Program {
                    variable: "UNDERPASS",
                    folder: "cli",
                    target: Target::Binary("underpass"),
                }],
                script: include_str!("suite/dpdk.sh"),
                module: false,
                nics: &[
                    "-netdev hubport,hubid=0,id=a0 -device e1000,netdev=a0,addr=0x10",
                    "-netdev hubport,hubid=0,id=a1 -device virtio-net-pci,netdev=a1,addr=0x11,\
                     mac=52:54:00:00:00:a1",
                    "-netdev hubport,hubid=1,id=b0 -device virtio-net-pci,netdev=b0,addr=0x12,\
                     mac=52:54:00:00:00:b0",
                    "-netdev hubport,hubid=1,id=b1 -device virtio-net-pci,netdev=b1,addr=0x13,\
                     mac=52:54:00:00:00:b1",
                ],
                memory: 1536,
                limit: Duration::from_secs(240),
            },
            Self::Rdma => Plan {
                programs: &[
                    Program {
                        variable: "DRIVER_TESTS",
                        folder: "drivers",
                        target: Target::Test("rdma"),
                    },
                    Program {
                        variable: "CONNECTION_TESTS",
                        folder: "drivers",
                        target: Target::Test("rdma_connection"),
                    },
                    Program {
                        variable: "UNDERPASS",
                        folder: "cli",
                        target: Target::Binary("underpass"),
                    },
                    Program {
                        variable: "CUSTOM_PROTOCOL",
                        folder: "examples",
                        target: Target::Binary("custom_protocol"),
                    },
                    Program {
                        variable: "ONE_SIDED",
                        folder: "examples",
                        target: Target::Binary("one_sided"),
                    },
                ],
                script: concat!(
                    // Before there is anything.
                    "\"$UNDERPASS\" doctor | grep '^rdma *missing .*rdma link add'\n",
                    include_str!("suite/soft_roce.sh"),
                    include_str!("suite/one_sided.sh"),
                    include_str!("suite/rdma.sh"),
                ),
                module: false,
                nics: &[],
                memory: 1536,
                limit: Duration::from_secs(600),
            },
        }
    }

    /// Builds what it takes and runs it.
    pub(super) fn run(self, choice: Choice) -> Result<()> {
        let plan = self.plan();
        println!("suite {}", name(&self));
        let mut environment = Vec::new();
        for program in plan.programs {
            environment.push((program.variable.into(), program.build()?.into()));
        }
        if plan.module {
            let module = module::build(&Kernel::get(choice)?)?;
            environment.push(("MODULE".into(), module.into()));
        }
        let append = if choice.debug_kernel { "kmemleak=on" } else { "" };
        let machine = Machine {
            kernel: choice,
            memory: plan.memory,
            cpus: 2,
            nic: plan.nics.iter().map(ToString::to_string).collect(),
            append: append.to_owned(),
        };
        // Watched kernels are slow.
        let limit = if choice.debug_kernel { plan.limit * 4 } else { plan.limit };
        let job = Job {
            command: &["bash".into(), "-euc".into(), plan.script.into()],
            environment: &environment,
            limit,
        };
        let outcome = machine.run(&job)?;
        if let Some(complaint) = outcome.complaint() {
            bail!("suite {}: {complaint}", name(&self));
        }
        ensure!(outcome.code == 0, "suite {}: exit code {}", name(&self), outcome.code);
        Ok(())
    }
}
