//! The guest itself: what comes back, what is found, and that nothing is left behind.

/// Each test boots; the step `guest` of `cargo xtask test` runs them.
mod guest {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Command, Output, Stdio};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process};
    use tempfile::TempDir;

    /// `cargo xtask guest run` with a folder for temporary files of its own.
    fn guest(temporary: &TempDir, options: &[&str], command: &[&str]) -> Command {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        xtask.args(["guest", "run"]).args(options).arg("--").args(command);
        xtask.env("TMPDIR", temporary.path());
        xtask
    }

    /// Runs a shell script in a guest, which must leave no file here.
    fn run(options: &[&str], script: &str) -> Output {
        let temporary = tempfile::tempdir().unwrap();
        let output = guest(&temporary, options, &["sh", "-c", script]).output().unwrap();
        assert_empty(temporary.path());
        output
    }

    fn assert_empty(folder: &Path) {
        let left: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn stderr(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Of seconds, for what takes four on a quiet machine.
    const LIMIT: &[&str] = &["--timeout", "60"];

    #[test]
    #[ignore = "needs the guest: run by cargo xtask test"]
    fn a_command_runs_as_root_where_it_was_called() {
        // What is told of a kernel that has to be fetched first is kept apart from what a command
        // prints.
        assert_eq!(run(LIMIT, "true").stdout, b"");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a file"), "of the host\n").unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let script = r#"id -u; cat "$1"; echo "$GREETING"; uname -n; echo aside >&2; echo x >"$1""#;
        let output = guest(&temporary, LIMIT, &["sh", "-c", script, "sh", "a file"])
            .current_dir(folder.path())
            .env("GREETING", "two words, and a 'quote'")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(stdout, "0\nof the host\ntwo words, and a 'quote'\nguest\n");
        assert_eq!(stderr(&output), "aside\n");
        // What the guest writes stays with it.
        assert_eq!(fs::read_to_string(folder.path().join("a file")).unwrap(), "of the host\n");
        assert_empty(temporary.path());
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask test"]
    fn the_exit_code_comes_back() {
        let output = run(LIMIT, "exit 7");
        assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask test"]
    fn a_panic_is_a_failure_that_says_so() {
        let output = run(LIMIT, "echo before; echo c >/proc/sysrq-trigger; exit 0");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"before\n");
        let error = stderr(&output);
        assert!(error.contains("the guest's kernel died: "), "{error}");
        assert!(error.contains("Kernel panic - not syncing: sysrq triggered crash"), "{error}");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask test"]
    fn a_warning_of_the_kernel_is_a_failure_that_names_it() {
        let output = run(LIMIT, "echo 'WARNING: made up' >/dev/kmsg; echo done");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"done\n");
        let error = stderr(&output);
        let lines: Vec<_> = error.lines().filter(|line| line.contains("WARNING")).collect();
        assert!(matches!(lines[..], [line] if line.ends_with("] WARNING: made up")), "{error}");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask test"]
    fn time_is_limited() {
        let start = Instant::now();
        let output = run(&["--timeout", "5"], "sleep 600");
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(error.contains("no result after 5 s: the guest was ended"), "{error}");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask test"]
    fn nothing_is_left_after_a_signal() {
        for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
            let temporary = tempfile::tempdir().unwrap();
            let script = "echo up; sleep 600";
            let mut xtask = guest(&temporary, LIMIT, &["sh", "-c", script])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(xtask.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "up\n");
            let qemu = child_of(xtask.id());
            kill_process(Pid::from_child(&xtask), signal).unwrap();
            assert!(!xtask.wait().unwrap().success());
            let start = Instant::now();
            while Path::new("/proc").join(&qemu).exists() {
                assert!(start.elapsed() < Duration::from_secs(10), "{signal:?}: QEMU goes on");
                sleep(Duration::from_millis(20));
            }
            // Nobody can clean up after SIGKILL.
            if signal != Signal::KILL {
                assert_empty(temporary.path());
            }
        }
    }

    /// The number of the only child of a process.
    fn child_of(process: u32) -> String {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let children: String = tasks
            .map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap())
            .collect();
        let mut children = children.split_whitespace();
        let child = children.next().expect("QEMU runs").to_owned();
        assert_eq!(children.next(), None);
        child
    }
}
