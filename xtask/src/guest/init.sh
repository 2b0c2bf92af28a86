#!/bin/busybox sh
# The first program of the guest, in its initial file system: mounts the host's files as its own.
export PATH=/bin
stop() {
    echo "guest: $1 failed" >/dev/ttyS0
    poweroff -f
}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module" || stop "insmod $module"
done </modules/order

# Small messages are three to eight times slower.
OPTIONS=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,$OPTIONS,cache=loose" host /host || stop "mounting the host's files"
# What is written stays in the guest's memory.
mount -t tmpfs tmpfs /written
mkdir /written/upper /written/work
mount -t overlay -o lowerdir=/host,upperdir=/written/upper,workdir=/written/work overlay /root ||
    stop "mounting the overlay"
mkdir -p /root/guest /root/lib/modules
mount -t 9p -o "rw,$OPTIONS,cache=none" guest /root/guest || stop "mounting the shared folder"
mount -o bind "/root$(cat /root/guest/modules)" /root/lib/modules || stop "mounting the modules"
# The kernel starts modprobe in the root of process 1: a chroot would not do.
for folder in proc sys dev; do
    mount -o move "/$folder" "/root/$folder"
done
exec switch_root /root /bin/bash /guest/session.sh
