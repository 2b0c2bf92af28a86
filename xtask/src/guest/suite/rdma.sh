# Frames by RDMA, with the devices of soft_roce.sh.
"$UNDERPASS" doctor | grep '^rdma *works'
"$UNDERPASS" doctor | grep -A 2 '^rxe0 port 1 *ACTIVE'
"$DRIVER_TESTS" guest:: --ignored --test-threads 1 --nocapture

# The command at both ends, one processor each: two that poll on one processor take turns by the tick.
cd "$(mktemp --directory)"
head -c 64M /dev/urandom >large
head -c 4M large >small
ours=(taskset -c 0 "$UNDERPASS")
theirs=(taskset -c 1 "$UNDERPASS")
here=(--device rdma:rxe0 --addr 10.7.0.2/24 --addr fd07::2/64)
there=(--device rdma:rxe1 --addr 10.7.0.3/24 --addr fd07::3/64)

# fetch NAME HOST: it must arrive as it is.
fetch() {
    timeout 240 "${theirs[@]}" http-get "${there[@]}" "http://$2/$1" --output copy
    [ "$(sha256sum <copy)" = "$(sha256sum <"$1")" ]
    rm copy
}

# started PID: waits until a program of ours has opened its device.
started() {
    until [ -n "$(ls -l "/proc/$1/fd" 2>/dev/null | grep uverbs)" ]; do sleep 0.05; done
}

# stop PID: it ends on Ctrl-C.
stop() {
    kill -INT "$1"
    wait "$1"
}

echo "== TCP, ping"
"${ours[@]}" http-serve "${here[@]}" --root . &
server=$!
started $server
for host in 10.7.0.2 fd07::2; do
    timeout 60 "${theirs[@]}" ping "${there[@]}" -c 5 -i 0.1 "$host"
done
time fetch large 10.7.0.2
fetch small '[fd07::2]'
echo "== loss"
for end in 0 1; do
    tc qdisc add dev "rdma$end" root netem loss 1%
done
time fetch small 10.7.0.2
tc -s qdisc show dev rdma0 | grep -E 'dropped [1-9]'
for end in 0 1; do
    tc qdisc delete dev "rdma$end" root
done

echo "== a peer that is gone, one that comes back"
timeout 60 "${theirs[@]}" ping "${there[@]}" -c 2 -i 0.1 10.7.0.99 && exit 1
"${theirs[@]}" http-get "${there[@]}" http://10.7.0.2/large --output cut &
sleep 2
kill -KILL $!
wait $! || true
fetch small 10.7.0.2
# What was cut off is still under way: the second Ctrl-C does not wait for it.
kill -INT $server
sleep 1
kill -INT $server 2>/dev/null || true
wait $server || true

echo "== UDP"
"${ours[@]}" echo --udp "${here[@]}" &
server=$!
started $server
answer=$(echo "a datagram" | timeout 60 "${theirs[@]}" nc -u -w 3 "${there[@]}" 10.7.0.2 7)
[ "$answer" = "a datagram" ]
stop $server

echo "== without the group: the client knows the server"
"${ours[@]}" -v echo --udp "${here[@]/rxe0/rxe0,multicast=off}" 2>log &
server=$!
started $server
until station=$(grep -o 'station=[^ ]*' log); do sleep 0.05; done
alone=("${there[@]/rxe1/rxe1,multicast=off,peer=${station#station=}}")
timeout 60 "${theirs[@]}" ping "${alone[@]}" -c 3 -i 0.1 10.7.0.2
stop $server

echo "== a protocol of one's own"
"$CUSTOM_PROTOCOL" --device rdma:rxe0 --addr 10.7.0.2/24 --name ada &
server=$!
started $server
name=$(timeout 60 "$CUSTOM_PROTOCOL" --device rdma:rxe1 --addr 10.7.0.3/24 --name bob --ask)
[[ "$name" == *" is ada" ]]
kill $server

echo "== errors of the command"
# refused TEXT DEVICE: one line on standard error.
refused() {
    if timeout 60 "$UNDERPASS" ping --device "$2" --addr 10.7.0.2/24 -c 1 10.7.0.3 2>log; then exit 1; fi
    cat log
    [ "$(wc -l <log)" = 1 ]
    grep -q "$1" log
}
refused 'no such RDMA device (have: rxe0, rxe1)' rdma:rxe7
ip link set rdma0 down
refused 'ip link set rdma0 up\|has no link\|has no address' rdma:rxe0
ip link set rdma0 up
"${ours[@]}" echo --udp "${here[@]}" 2>log &
server=$!
started $server
ip link set rdma0 down
if wait $server; then exit 1; fi
grep '^error: .*Network is down' log
