//! What a kernel says that no kernel should say.

/// Parts of lines. Sources: lib/dump_stack.c and kernel/panic.c (BUG, WARNING, panic),
/// mm/kasan/report.c, lib/ubsan.c, kernel/locking/lockdep.c, kernel/rcu, mm/kmemleak.c,
/// kernel/watchdog.c and hung_task.c, net/core/dev.c and lib/ref_tracker.c, lib/debugobjects.c.
const COMPLAINTS: [&str; 31] = [
    "BUG:",
    "kernel BUG at",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "Call Trace:",
    "KASAN:",
    "KFENCE:",
    "UBSAN:",
    "ODEBUG:",
    "possible recursive locking",
    "possible circular locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "Invalid wait context",
    "bad unlock balance",
    "held lock freed",
    "suspicious RCU usage",
    "sleeping function called",
    "scheduling while atomic",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "new suspected memory leaks",
    "unregister_netdevice: waiting",
    "leaked reference",
    "blocked for more than",
    "detected stalls",
    "self-detected stall",
];

/// The lines of a kernel log that are complaints.
pub(super) fn complaints(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn bugs_are_found_in_what_kernels_say() {
        for line in [
            "[    5.1] WARNING: CPU: 0 PID: 1 at net/core/dev.c:100 f+0x1/0x2",
            "[   24.0] BUG: KASAN: vmalloc-out-of-bounds in ring_rx+0x10/0x20 [ring]",
            "[   25.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [sh:1]",
            "[    6.0] WARNING: possible recursive locking detected",
            "[    6.0] [ BUG: Invalid wait context ]",
            "[   11.0] unregister_netdevice: waiting for x0 to become free. Usage count = 2",
            "[    9.0] UBSAN: array-index-out-of-bounds in ring.c:7:9",
            "[    9.0] Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "[   60.0] kmemleak: 37 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        ] {
            assert_eq!(complaints(line).collect::<Vec<_>>(), [line]);
        }
    }

    #[test]
    fn a_clean_boot_is_clean() {
        let log = "[    0.0] Linux version 6.1.0-56-amd64\n\
                   [    0.0] kasan: KernelAddressSanitizer initialized\n\
                   [    0.1] kmemleak: Kernel memory leak detector disabled\n\
                   [    0.2] Warning: PCI driver has no owner\n\
                   [    3.0] ring: loading out-of-tree module taints kernel.\n";
        assert_eq!(complaints(log).next(), None);
    }
}
