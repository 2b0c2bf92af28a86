# The kernel module: the device over its rings, and hostile processes.
insmod "$MODULE"
modprobe veth
for program in "$KRING" "$KRING_HOSTILE" "$COMMAND"; do
    "$program" guest:: --ignored --test-threads 1 --nocapture
done
rmmod underpass_ring
