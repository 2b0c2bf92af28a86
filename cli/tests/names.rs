//! Names, looked up at dnsmasq as it is installed.

#![forbid(unsafe_code)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

use common::{Lab, Process};

on_every_link! {
    dig_prints_what_dnsmasq_answers,
    many_addresses_come_over_tcp,
    failures_name_their_cause,
    names_work_in_urls_and_for_ping,
    static_names_need_no_server,
}

fn dig_prints_what_dnsmasq_answers(lab: &Lab) {
    let _dnsmasq = dnsmasq(lab);
    for server in ["@10.7.0.1", "@fd07::1"] {
        let output = lab.run(&["dig", "www.test", server]);
        let text = text(&output);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..2],
            ["www.test.\t60\tIN\tCNAME\tfiles.test.", "files.test.\t60\tIN\tA\t10.7.0.1"],
            "{text}"
        );
        assert!(lines[2].starts_with(";; ") && lines[2].contains(" answered in "), "{text}");
        assert!(lines[2].contains(&server[1..]), "{text}");
    }
    let output = lab.run(&["--json", "dig", "files.test", "AAAA", "--dns", "10.7.0.1"]);
    let report: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(report["answers"][0]["data"], "fd07::1");
    assert_eq!((&report["server"], &report["type"]), (&"10.7.0.1:53".into(), &"AAAA".into()));
    assert!(report["milliseconds"].as_f64().unwrap() > 0.0);
    // The first server is not there.
    let servers = ["--dns", "10.7.0.99", "--dns", "10.7.0.1"];
    text_of(lab, &[&["dig", "files.test"][..], &servers].concat());
    let found = text_of(lab, &["dig", "files", "--search", "test", "--dns", "10.7.0.1"]);
    assert!(found.contains("files.test.\t60"), "{found}");
}

fn many_addresses_come_over_tcp(lab: &Lab) {
    let _dnsmasq = dnsmasq(lab);
    let found = text_of(lab, &["dig", "many.test", "@10.7.0.1"]);
    assert_eq!(found.lines().filter(|line| line.contains("\tA\t10.8.")).count(), 200, "{found}");
}

fn failures_name_their_cause(lab: &Lab) {
    let _dnsmasq = dnsmasq(lab);
    for (arguments, cause) in [
        (&["none.test", "@10.7.0.1"][..], "error: none.test does not exist (NXDOMAIN)"),
        (&["four.test", "AAAA", "@10.7.0.1"], "error: four.test has no AAAA record"),
        (&["host.example", "@10.7.0.1"], "10.7.0.1 answered REFUSED"),
        (&["files.test", "@10.7.0.99"], "10.7.0.99 did not answer in 3 tries"),
        (&["files.test", "@192.0.2.1"], "192.0.2.1 cannot be asked: no route to 192.0.2.1"),
        (&["files.test"], "add --dns"),
        (&["a..b", "@10.7.0.1"], "'a..b' is not a host name"),
    ] {
        let output = lab.run(&[&["dig"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(cause), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    }
}

fn names_work_in_urls_and_for_ping(lab: &Lab) {
    let _dnsmasq = dnsmasq(lab);
    let answer = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfound";
    fs::write(lab.dir.path().join("answer"), answer).unwrap();
    let mut web = Command::new("nc");
    // Only IPv4: the client has to get over the IPv6 address of the same name.
    web.args(["-4", "-v", "-N", "-l", "8080"]).stderr(Stdio::piped()).stdout(Stdio::null());
    web.stdin(fs::File::open(lab.dir.path().join("answer")).unwrap());
    let mut web = lab.start_peer(web);
    web.wait_for("Listening");
    let url = "http://www.test:8080/file";
    let found = text_of(lab, &["http-get", url, "-o", "-", "--dns", "10.7.0.1"]);
    assert_eq!(found, "found");

    let ping = ["ping", "files.test", "-c", "2", "-i", "0.1", "--dns", "10.7.0.1"];
    let found = text_of(lab, &ping);
    assert!(found.starts_with("PING files.test (fd07::1)"), "{found}");
    assert!(found.contains("2 packets transmitted, 2 received"), "{found}");
}

fn static_names_need_no_server(lab: &Lab) {
    fs::write(lab.dir.path().join("hosts"), "10.7.0.1 router.test router # here\n").unwrap();
    let found = text_of(lab, &["ping", "router", "-c", "1", "--hosts", "hosts"]);
    assert!(found.starts_with("PING router (10.7.0.1)"), "{found}");
    let output = lab.run(&["ping", "router", "-c", "1", "--hosts", "missing"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("--hosts missing"), "{stderr}");
}

/// dnsmasq at every address of the kernel's end, with names below `test`.
fn dnsmasq(lab: &Lab) -> Process {
    let mut hosts = "10.7.0.1 files.test\nfd07::1 files.test\n10.7.0.4 four.test\n".to_owned();
    for n in 0..200 {
        writeln!(hosts, "{} many.test", IpAddr::from([10, 8, 0, n])).unwrap();
    }
    let path = lab.dir.path().join("names");
    fs::write(&path, hosts).unwrap();
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file"]);
    command.args(["--no-resolv", "--no-hosts", "--log-facility=-", "--local=/test/"]);
    command.args(["--local-ttl=60", "--cname=www.test,files.test,60"]);
    command.arg(format!("--addn-hosts={}", path.display()));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    lab.peer_server(command, "127.0.0.1:53".parse().unwrap())
}

fn text_of(lab: &Lab, arguments: &[&str]) -> String {
    text(&lab.run(arguments))
}

fn text(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}
