# The kernel module: the device over its rings, hostile processes, and the command over the device.
modprobe veth
"$UNDERPASS" doctor | grep '^kring *missing .*insmod'
insmod "$MODULE"
"$UNDERPASS" doctor | grep '^kring *works'
for tests in "$DRIVER_TESTS" "$HOSTILE_TESTS" "$COMMAND_TESTS"; do
    "$tests" guest:: --ignored --test-threads 1 --nocapture
done
rmmod underpass_ring
