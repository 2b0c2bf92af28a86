# Soft-RoCE: two devices, rxe0 and rxe1, on the ends of a veth pair. Both are in the first
# namespace, for this kernel's Soft-RoCE sends in no other; what goes from one to the other does cross
# the pair.
modprobe -a veth rdma_rxe ib_uverbs
ip link add rdma0 type veth peer name rdma1
sysctl -qw net.ipv4.conf.all.rp_filter=0
for end in 0 1; do
    sysctl -qw "net.ipv4.conf.rdma$end.accept_local=1" "net.ipv4.conf.rdma$end.rp_filter=0"
    ip link set "rdma$end" mtu 4200 up
    ip address add "10.9.0.$((end + 1))/24" dev "rdma$end"
    rdma link add "rxe$end" type rxe netdev "rdma$end"
done
