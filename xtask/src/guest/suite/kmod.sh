# The kernel module: the device over its rings, and in and out.
insmod "$MODULE"
modprobe veth
"$KRING" guest:: --ignored --test-threads 1 --nocapture
rmmod underpass_ring
