# DPDK's poll-mode drivers on PCI cards: e1000 and virtio-net. Each card is joined, by a hub inside
# QEMU, to one of the kernel's in a namespace of its own, which is the peer.
modprobe -a e1000 uio_pci_generic virtio_net
echo 256 >/proc/sys/vm/nr_hugepages
mkdir -p /dev/hugepages
mount -t hugetlbfs hugetlbfs /dev/hugepages
cd "$(mktemp --directory)"
head -c 8M /dev/urandom >file

# serve CARD PEER: PCI addresses of the two.
serve() {
    local card=/sys/bus/pci/devices/$1
    local driver=$(basename "$(realpath "$card/driver")")
    echo "== $driver"
    echo "$1" >"$card/driver/unbind"
    echo uio_pci_generic >"$card/driver_override"
    echo "$1" >/sys/bus/pci/drivers_probe
    ip netns add peer
    local peer=$(basename "$(find "/sys/bus/pci/devices/$2/" -path '*/net/*' -prune)")
    ip link set "$peer" netns peer
    ip -n peer address add 10.7.0.1/24 dev "$peer"
    ip -n peer link set "$peer" up

    "$UNDERPASS" ping --device "dpdk:$1" --addr 10.7.0.2/24 -c 3 10.7.0.1
    "$UNDERPASS" http-serve --device "dpdk:$1" --addr 10.7.0.2/24 --root . &
    # Until the card has its link.
    ip netns exec peer ping -q -c 1 -w 60 10.7.0.2
    ip netns exec peer ping -q -c 20 -i 0.05 10.7.0.2
    ip netns exec peer curl --silent --show-error --output copy http://10.7.0.2/file
    cmp file copy
    rm copy
    kill -INT $!
    wait $!
    ip netns delete peer
}
serve 0000:00:10.0 0000:00:11.0
serve 0000:00:12.0 0000:00:13.0
