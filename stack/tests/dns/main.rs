//! Looking up names, with servers that answer, lie and keep silent, in virtual time.

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::collections::HashSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::World;
use server::{A, Act, Answer, FORGED_ADDRESS, Forgery, RIGHT_ADDRESS, Server};
use underpass::devices::LinkConfig;
use underpass::{DnsConfig, DnsError, Hosts, Limits, RecordType, TcpListener, TcpStream};

const SECOND: Duration = Duration::from_secs(1);
/// As long as any lookup may take.
const LONG: Duration = Duration::from_secs(300);

/// Two stacks, and DNS servers on the right one.
struct Dns {
    world: World,
    servers: Vec<Server>,
}

impl Dns {
    fn new() -> Self {
        Self::with(DnsConfig::default())
    }

    /// Servers at 10.0.0.2 and fd00::2, asked in this order.
    fn with(config: DnsConfig) -> Self {
        let link = LinkConfig { delay: Duration::from_millis(5), ..LinkConfig::default() };
        let ips = ["10.0.0.2", "fd00::2"];
        let world = World::with(link, &Limits::default(), |left| {
            ips.iter().fold(left.dns(config), |left, ip| left.dns_server(ip.parse().unwrap()))
        });
        let servers = ips.iter().map(|ip| Server::new(&world.right, ip)).collect();
        Self { world, servers }
    }

    /// Both servers do this.
    fn on(&mut self, name: &str, act: &Act) {
        for server in &mut self.servers {
            server.on(name, act.clone());
        }
    }

    fn run<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut output = None;
        self.world.run_until("a lookup", LONG, || {
            for server in &mut self.servers {
                server.turn();
            }
            output = poll(future.as_mut());
            output.is_some()
        });
        output.unwrap()
    }

    fn lookup(&mut self, name: &str) -> Result<Vec<String>, DnsError> {
        let resolver = self.world.left.resolver();
        let answer = self.run(resolver.lookup(name, RecordType::A))?;
        Ok(answer.addresses().map(|ip| ip.to_string()).collect())
    }

    fn asked(&self) -> usize {
        self.servers.iter().map(|server| server.asked.len()).sum()
    }

    fn asked_for(&self, name: &str) -> usize {
        self.servers.iter().map(|server| server.asked_for(name)).sum()
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn ip(name: &'static str, ttl: u32, ip: &str) -> Answer {
    Answer::Ip(name, ttl, ip.parse().unwrap())
}

fn address(text: &str) -> Act {
    Act::Answer(vec![ip("", 60, text)])
}

fn right() -> Vec<String> {
    vec![IpAddr::from(RIGHT_ADDRESS).to_string()]
}

#[test]
fn addresses_of_both_versions_come_with_the_port() {
    let mut dns = Dns::new();
    let both = vec![ip("", 60, "10.0.0.9"), ip("", 60, "192.0.2.1"), ip("", 60, "fd00::9")];
    dns.on("host.test", &Act::Answer(both));
    let stack = dns.world.left.clone();
    let found = dns.run(stack.lookup_host("Host.test", 80)).unwrap();
    // What there is no route to comes last.
    let wanted: Vec<SocketAddr> =
        ["[fd00::9]:80", "10.0.0.9:80", "192.0.2.1:80"].map(|addr| addr.parse().unwrap()).into();
    assert_eq!(found, wanted);
    let kinds: HashSet<u16> = dns.servers[0].asked.iter().map(|asked| asked.kind).collect();
    assert_eq!(kinds.len(), 2);
}

#[test]
fn every_question_has_its_own_identifier_port_and_spelling() {
    let mut dns = Dns::new();
    dns.on("a-rather-long-name.test", &Act::Answer(vec![ip("", 0, "10.0.0.9")]));
    for _ in 0..100 {
        dns.lookup("a-rather-long-name.test").unwrap();
    }
    let asked = &dns.servers[0].asked;
    assert_eq!(asked.len(), 100, "a time to live of 0 is not remembered");
    let different = |mut keys: Vec<String>| {
        keys.sort();
        keys.dedup();
        keys.len()
    };
    assert!(different(asked.iter().map(|a| a.id.to_string()).collect()) > 95);
    assert!(different(asked.iter().map(|a| a.from.port().to_string()).collect()) > 95);
    assert!(different(asked.iter().map(|a| a.name.clone()).collect()) > 95);
    let ports = asked.iter().map(|a| a.from.port());
    let (low, high) = (ports.clone().min().unwrap(), ports.max().unwrap());
    assert!((1024..8000).contains(&low) && high > 58_000, "{low} to {high}");
}

#[test]
fn forged_answers_are_passed_over_for_the_right_one() {
    for forgery in [
        Forgery::Id,
        Forgery::Question,
        Forgery::SourcePort,
        Forgery::DestinationPort,
        Forgery::NotAResponse,
        Forgery::Garbage,
    ] {
        let mut dns = Dns::new();
        dns.on("bank.test", &Act::Forged(forgery, true));
        assert_eq!(dns.lookup("bank.test"), Ok(right()), "{forgery:?}");
        let heard = u64::from(forgery != Forgery::DestinationPort);
        assert_eq!(dns.world.left.resolver().stats().mismatches, heard, "{forgery:?}");
        assert_eq!(dns.asked(), 1, "{forgery:?}");
    }
}

#[test]
fn forged_answers_alone_are_no_answer() {
    let mut dns = Dns::new();
    dns.on("bank.test", &Act::Forged(Forgery::Id, false));
    assert!(matches!(dns.lookup("bank.test"), Err(DnsError::Unanswered { silence: true, .. })));
    assert_eq!(dns.world.left.resolver().stats().cache_entries, 0);
}

#[test]
fn doubtful_answers_are_asked_for_over_tcp() {
    for forgery in [Forgery::Case, Forgery::Oversized] {
        let mut dns = Dns::new();
        dns.on("bank.test", &Act::Forged(forgery, false));
        let found = dns.lookup("bank.test").unwrap();
        assert_eq!(found, right(), "{forgery:?}");
        assert_ne!(found, [IpAddr::from(FORGED_ADDRESS).to_string()]);
        assert_eq!(dns.world.left.resolver().stats().tcp_queries, 1, "{forgery:?}");
    }
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp() {
    let mut dns = Dns::new();
    let many: Vec<Answer> = (0..250).map(|n| Answer::Ip("", 60, [10, 0, 1, n].into())).collect();
    dns.on("many.test", &Act::Truncated(many));
    assert_eq!(dns.lookup("many.test").unwrap().len(), 250);
    let asked: Vec<bool> = dns.servers[0].asked.iter().map(|asked| asked.tcp).collect();
    assert_eq!(asked, [false, true]);
}

#[test]
fn aliases_lead_to_addresses_over_several_answers() {
    let mut dns = Dns::new();
    let alias = |from, to| Answer::Alias(from, 60, to);
    dns.on("www.test", &Act::Answer(vec![alias("", "a.test"), alias("a.test", "b.test")]));
    dns.on("b.test", &Act::Answer(vec![alias("", "c.test"), ip("c.test", 7, "10.0.0.9")]));
    assert_eq!(dns.lookup("www.test"), Ok(vec!["10.0.0.9".to_owned()]));
    let resolver = dns.world.left.resolver();
    let again = dns.run(resolver.lookup("www.test", RecordType::A)).unwrap();
    assert!(again.cached);
    assert_eq!(again.records.len(), 4);
    // The chain is good for as long as its shortest link.
    dns.world.run_for(8 * SECOND);
    dns.lookup("www.test").unwrap();
    assert_eq!(dns.asked_for("www.test"), 2);
}

#[test]
fn aliases_in_a_circle_end() {
    let mut dns = Dns::new();
    dns.on("a.test", &Act::Answer(vec![Answer::Alias("", 60, "b.test")]));
    dns.on("b.test", &Act::Answer(vec![Answer::Alias("", 60, "a.test")]));
    assert_eq!(dns.lookup("a.test"), Err(DnsError::TooManyAliases("a.test".to_owned())));
    assert!(dns.asked() < 12);
}

#[test]
fn answers_are_remembered_for_their_time_to_live() {
    let mut dns = Dns::new();
    dns.on("host.test", &address("10.0.0.9"));
    dns.lookup("host.test").unwrap();
    dns.on("host.test", &address("10.0.0.10"));
    dns.world.run_for(58 * SECOND);
    assert_eq!(dns.lookup("HOST.test."), Ok(vec!["10.0.0.9".to_owned()]));
    dns.world.run_for(2 * SECOND);
    assert_eq!(dns.lookup("host.test"), Ok(vec!["10.0.0.10".to_owned()]));
    assert_eq!((dns.asked(), dns.world.left.resolver().stats().cache_hits), (2, 1));
}

#[test]
fn absence_is_remembered_by_the_minimum_of_the_zone() {
    for act in [Act::NoName(30), Act::NoRecord(30)] {
        let mut dns = Dns::new();
        dns.on("none.test", &act);
        let error = dns.lookup("none.test").unwrap_err();
        match act {
            Act::NoName(_) => assert_eq!(error.to_string(), "none.test does not exist (NXDOMAIN)"),
            _ => assert_eq!(error.to_string(), "none.test has no A record"),
        }
        dns.on("none.test", &address("10.0.0.9"));
        dns.world.run_for(29 * SECOND);
        assert_eq!(dns.lookup("none.test"), Err(error));
        assert_eq!(dns.asked(), 1);
        dns.world.run_for(2 * SECOND);
        assert_eq!(dns.lookup("none.test"), Ok(vec!["10.0.0.9".to_owned()]));
    }
}

#[test]
fn the_cache_is_bounded() {
    let mut config = DnsConfig::default();
    config.cache_entries = 5;
    let mut dns = Dns::with(config);
    for n in 0..20 {
        let name = format!("host{n}.test");
        dns.on(&name, &address("10.0.0.9"));
        dns.lookup(&name).unwrap();
        assert!(dns.world.left.resolver().stats().cache_entries <= 5);
    }
}

#[test]
fn dead_servers_are_named_after_the_last_try() {
    let mut dns = Dns::new();
    dns.on("host.test", &Act::Silence);
    let start = dns.world.now;
    let error = dns.lookup("host.test").unwrap_err().to_string();
    assert_eq!(
        error,
        "looking up host.test: 10.0.0.2 did not answer in 3 tries, \
         fd00::2 did not answer in 3 tries"
    );
    // Two servers, 1 + 2 + 4 seconds each.
    assert_eq!((dns.world.now - start).as_secs(), 14);
    assert_eq!(dns.asked(), 6);
}

#[test]
fn another_server_steps_in_and_is_asked_first_from_then_on() {
    let mut dns = Dns::new();
    for name in ["a.test", "b.test"] {
        dns.servers[0].on(name, Act::Silence);
        dns.servers[1].on(name, address("10.0.0.9"));
    }
    dns.lookup("a.test").unwrap();
    assert_eq!((dns.servers[0].asked.len(), dns.servers[1].asked.len()), (1, 1));
    let start = dns.world.now;
    dns.lookup("b.test").unwrap();
    assert_eq!((dns.servers[0].asked.len(), dns.servers[1].asked.len()), (1, 2));
    assert!(dns.world.now - start < SECOND);
}

#[test]
fn a_server_that_cannot_answer_is_passed_over_at_once_and_named() {
    let mut dns = Dns::new();
    dns.servers[0].on("a.test", Act::Error(2));
    dns.servers[1].on("a.test", address("10.0.0.9"));
    let start = dns.world.now;
    dns.lookup("a.test").unwrap();
    assert!(dns.world.now - start < SECOND);
    dns.servers[0].on("b.test", Act::Error(2));
    dns.servers[1].on("b.test", Act::Error(5));
    let error = dns.lookup("b.test").unwrap_err().to_string();
    assert!(error.contains("10.0.0.2 answered SERVFAIL"), "{error}");
    assert!(error.contains("fd00::2 answered REFUSED"), "{error}");
}

#[test]
fn the_same_question_is_asked_once_at_a_time() {
    let mut dns = Dns::new();
    dns.on("host.test", &Act::Answer(vec![ip("", 0, "10.0.0.9")]));
    let resolver = dns.world.left.resolver();
    let mut lookups: Vec<_> =
        (0..10).map(|_| Box::pin(resolver.lookup("host.test", RecordType::A))).collect();
    let mut left = lookups.len();
    let Dns { world, servers } = &mut dns;
    // The first one gives up; another one takes its place.
    world.run_until("the first question", LONG, || {
        assert!(lookups.iter_mut().all(|lookup| poll(lookup.as_mut()).is_none()));
        resolver.stats().udp_queries > 0
    });
    drop(lookups.remove(0));
    left -= 1;
    world.run_until("all lookups", LONG, || {
        servers.iter_mut().for_each(Server::turn);
        lookups.retain_mut(|lookup| match poll(lookup.as_mut()) {
            Some(answer) => {
                assert_eq!(answer.unwrap().records.len(), 1);
                left -= 1;
                false
            }
            None => true,
        });
        left == 0
    });
    assert!(dns.asked() <= 2, "{:?}", dns.servers[0].asked);
    assert!(dns.servers[0].asked.iter().all(|asked| asked.kind == A));
}

#[test]
fn questions_are_bounded_in_number() {
    let mut config = DnsConfig::default();
    config.questions = 1;
    let mut dns = Dns::with(config);
    dns.on("a.test", &Act::Silence);
    let resolver = dns.world.left.resolver();
    let mut first = Box::pin(resolver.lookup("a.test", RecordType::A));
    dns.world.run_until("a question", LONG, || {
        let _ = poll(first.as_mut());
        resolver.stats().udp_queries > 0
    });
    assert_eq!(dns.lookup("b.test"), Err(DnsError::TooManyQuestions(1)));
    drop(first);
    dns.on("b.test", &address("10.0.0.9"));
    assert!(dns.lookup("b.test").is_ok());
}

#[test]
fn search_domains_complete_short_names() {
    let mut config = DnsConfig::default();
    config.search = vec!["one.test".to_owned(), "two.test".to_owned()];
    let mut dns = Dns::with(config);
    dns.on("web.one.test", &Act::NoName(60));
    dns.on("web.two.test", &address("10.0.0.9"));
    assert_eq!(dns.lookup("web"), Ok(vec!["10.0.0.9".to_owned()]));
    assert_eq!((dns.asked_for("web"), dns.asked()), (0, 2));
}

#[test]
fn some_names_need_no_server() {
    let mut config = DnsConfig::default();
    config.hosts = Hosts::parse("10.0.0.9 host.test\nfd00::9 host.test");
    let mut dns = Dns::with(config);
    assert_eq!(dns.lookup("host.test"), Ok(vec!["10.0.0.9".to_owned()]));
    assert_eq!(dns.lookup("localhost"), Ok(vec!["127.0.0.1".to_owned()]));
    assert_eq!(dns.lookup("a.localhost."), Ok(vec!["127.0.0.1".to_owned()]));
    assert_eq!(dns.lookup("a.invalid"), Err(DnsError::NoName("a.invalid".to_owned())));
    assert!(matches!(dns.lookup("a..b"), Err(DnsError::BadName { .. })));
    let stack = dns.world.left.clone();
    for (literal, ip) in [("10.0.0.7", "10.0.0.7"), ("fd00::7", "fd00::7"), ("[::1]", "::1")] {
        let found = dns.run(stack.lookup_host(literal, 1)).unwrap();
        assert_eq!(found, [SocketAddr::new(ip.parse().unwrap(), 1)]);
    }
    assert_eq!(dns.asked(), 0);
}

#[test]
fn without_a_server_the_error_says_so() {
    let mut world = World::new(LinkConfig::default(), &Limits::default());
    let stack = world.left.clone();
    let mut lookup = pin!(stack.lookup_host("host.test", 80));
    let mut result = None;
    world.run_until("a lookup", LONG, || {
        result = poll(lookup.as_mut());
        result.is_some()
    });
    let error = result.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("no DNS server is known"), "{error}");
}

#[test]
fn connecting_to_a_name_tries_its_addresses_in_turn() {
    let mut dns = Dns::new();
    // Nobody is at the first two; the port is closed at none of the others.
    let addresses = vec![ip("", 60, "fd00::99"), ip("", 60, "10.0.0.99"), ip("", 60, "10.0.0.2")];
    dns.on("web.test", &Act::Answer(addresses));
    let _listener = TcpListener::bind(&dns.world.right, "10.0.0.2:80".parse().unwrap()).unwrap();
    let stack = dns.world.left.clone();
    let start = dns.world.now;
    let stream = dns.run(TcpStream::connect_host_async(&stack, "web.test", 80)).unwrap();
    assert_eq!(stream.peer_addr(), "10.0.0.2:80".parse().unwrap());
    let took = dns.world.now - start;
    assert!((Duration::from_millis(500)..SECOND).contains(&took), "{took:?}");
    dns.world.run_for(Duration::from_millis(50));
    assert_eq!(dns.world.left.stats().tcp_flows, 1, "the other attempts are given up");

    let error = dns.run(TcpStream::connect_host_async(&stack, "web.test", 81)).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("10.0.0.2:81: ") && text.contains("[fd00::99]:81: "), "{text}");
    dns.on("none.test", &Act::NoName(60));
    let error = dns.run(TcpStream::connect_host_async(&stack, "none.test", 80)).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
