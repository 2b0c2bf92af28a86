use super::*;

fn routes() -> Routes {
    let mut routes = Routes::default();
    for net in ["10.0.0.2/24", "10.1.0.2/16", "fd00::2/64", "fe80::2/64"] {
        routes.set_address(Address::new(net.parse().unwrap(), 0, Origin::Static));
    }
    routes.set_route(Route::new(net("0.0.0.0/0"), 0, Some(ip("10.0.0.1"))));
    routes.set_route(Route::new(net("::/0"), 0, Some(ip("fd00::1"))));
    routes
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn source_for(routes: &Routes, dst: &str) -> Option<IpAddr> {
    let way = routes.lookup(ip(dst))?;
    routes.source_on(way.interface, ip(dst), way.hop)
}

fn hop(routes: &Routes, dst: &str) -> Option<IpAddr> {
    routes.lookup(ip(dst)).map(|way| way.hop)
}

#[test]
fn next_hop_is_the_neighbour_on_link_and_the_gateway_beyond() {
    let routes = routes();
    assert_eq!(hop(&routes, "10.1.9.9"), Some(ip("10.1.9.9")));
    assert_eq!(hop(&routes, "192.0.2.1"), Some(ip("10.0.0.1")));
    assert_eq!(hop(&routes, "2001:db8::1"), Some(ip("fd00::1")));
    assert_eq!(hop(&routes, "fe80::99"), Some(ip("fe80::99")));
    assert_eq!(hop(&Routes::default(), "192.0.2.1"), None);
}

#[test]
fn source_is_on_the_network_of_the_next_hop_and_of_the_same_scope() {
    let routes = routes();
    assert_eq!(source_for(&routes, "10.1.9.9"), Some(ip("10.1.0.2")));
    assert_eq!(source_for(&routes, "192.0.2.1"), Some(ip("10.0.0.2")));
    assert_eq!(source_for(&routes, "2001:db8::1"), Some(ip("fd00::2")));
    assert_eq!(source_for(&routes, "fe80::99"), Some(ip("fe80::2")));
}

#[test]
fn broadcasts_multicasts_and_ourselves_are_no_peers() {
    let routes = routes();
    for address in ["255.255.255.255", "10.0.0.255", "224.0.0.1", "0.0.0.0", "127.0.0.1"] {
        assert!(!routes.is_peer(ip(address)), "{address}");
    }
    assert!(!routes.is_peer(ip("10.0.0.2")));
    assert!(routes.is_peer(ip("10.0.0.1")));
}

#[test]
fn the_longest_prefix_wins_then_the_metric_then_the_oldest() {
    let mut routes = routes();
    let add = |routes: &mut Routes, to: &str, interface, gateway: &str, metric| {
        let route = Route::new(net(to), interface, Some(ip(gateway)));
        routes.set_route(route.with_metric(metric));
    };
    add(&mut routes, "192.0.2.0/24", 1, "10.0.0.3", 5);
    assert_eq!(routes.lookup(ip("192.0.2.1")), Some(Way { interface: 1, hop: ip("10.0.0.3") }));
    add(&mut routes, "192.0.2.0/24", 1, "10.0.0.4", 4);
    assert_eq!(hop(&routes, "192.0.2.1"), Some(ip("10.0.0.4")));
    add(&mut routes, "192.0.2.0/24", 1, "10.0.0.5", 4);
    assert_eq!(hop(&routes, "192.0.2.1"), Some(ip("10.0.0.4")));
    add(&mut routes, "192.0.2.1/32", 0, "10.0.0.6", 9);
    assert_eq!(hop(&routes, "192.0.2.1"), Some(ip("10.0.0.6")));
    assert_eq!(hop(&routes, "192.0.3.1"), Some(ip("10.0.0.1")));
    assert!(routes.remove_route(&Route::new(net("192.0.2.1/32"), 0, Some(ip("10.0.0.6")))));
    assert_eq!(hop(&routes, "192.0.2.1"), Some(ip("10.0.0.4")));
}

#[test]
fn versions_do_not_mix() {
    let mut routes = Routes::default();
    routes.set_route(Route::new(net("0.0.0.0/0"), 0, Some(ip("10.0.0.1"))));
    assert_eq!(hop(&routes, "2001:db8::1"), None);
    let mut routes = Routes::default();
    routes.set_route(Route::new(net("2000::/3"), 0, Some(ip("fd00::1"))));
    assert_eq!(hop(&routes, "192.0.2.1"), None);
}

#[test]
fn tentative_addresses_are_nobodys_and_deprecated_ones_are_not_chosen() {
    let mut routes = Routes::default();
    let mut first = Address::new(net("fd00::2/64"), 0, Origin::Router);
    first.state = AddressState::Tentative;
    routes.set_address(first);
    assert!(!routes.is_own(ip("fd00::2")) && routes.lookup(ip("fd00::9")).is_none());
    first.state = AddressState::Deprecated;
    routes.set_address(first);
    assert_eq!(source_for(&routes, "fd00::9"), Some(ip("fd00::2")));
    routes.set_address(Address::new(net("fd00::3/64"), 0, Origin::Router));
    assert_eq!(source_for(&routes, "fd00::9"), Some(ip("fd00::3")));
    assert!(routes.is_own(ip("fd00::2")));
    assert!(routes.remove_address(ip("fd00::2")) && !routes.remove_address(ip("fd00::2")));
    assert_eq!(routes.addresses().len(), 1);
}

#[test]
fn a_source_is_taken_from_the_interface_a_packet_leaves_by() {
    let mut routes = Routes::default();
    for (address, interface) in
        [("10.0.0.2/24", 0), ("fe80::a/64", 0), ("172.16.0.2/24", 1), ("fe80::b/64", 1)]
    {
        routes.set_address(Address::new(net(address), interface, Origin::Static));
    }
    routes.set_route(Route::new(net("0.0.0.0/0"), 1, Some(ip("172.16.0.1"))));
    assert_eq!(source_for(&routes, "192.0.2.1"), Some(ip("172.16.0.2")));
    assert_eq!(routes.source_on(1, ip("ff02::1"), ip("ff02::1")), Some(ip("fe80::b")));
    assert_eq!(routes.group_interface(ip("239.1.2.3")), Some(1));
    assert_eq!(routes.group_interface(ip("ff0e::1")), Some(0));
}

#[test]
fn two_stations_of_one_mac_have_two_link_local_addresses() {
    let alone = Caps::ethernet(underpass_devices::MacAddr([0x50, 0x54, 0, 1, 2, 3]), 1500);
    assert_eq!(link_local(&alone).to_string(), "fe80::5254:ff:fe01:203");
    let beside = Caps { shares_mac: true, ..alone };
    assert_eq!(link_local(&beside).to_string(), "fe80::5054:75:7001:203");
}
