# The kernel module goes in and out.
insmod "$MODULE"
rmmod underpass_ring
