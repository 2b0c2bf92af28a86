# One-sided operations, with the devices of soft_roce.sh.
"$CONNECTION_TESTS" guest:: --ignored --test-threads 1 --nocapture

# The example, whose handshake goes over two stacks of ours on another pair.
ip link add eth1 type veth peer name eth2
ip link set eth1 up
ip link set eth2 up
"$ONE_SIDED" serve --rdma rxe0 --device packet:eth1 --addr 10.8.0.1/24 > /tmp/served &
server=$!
for visit in 1 2; do
    "$ONE_SIDED" run 10.8.0.1 --rdma rxe1 --device packet:eth2 --addr 10.8.0.2/24 | tee /tmp/visited
    grep -q "the same; visit $visit" /tmp/visited
done
kill -INT $server
wait $server
test "$(grep -c "is connected" /tmp/served)" = 2
