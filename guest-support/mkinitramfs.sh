#!/bin/sh
# mkinitramfs.sh [-a i386|amd64] BUILD OUT [NAME=HOST-FILE ...] - the demo guest's userland.
#
# busybox of that architecture (i386 by default) from the guest cache, /init and /etc/session from
# guest-support/initramfs, and each NAME (no leading slash) with the host file's contents,
# executable. Uncompressed: the kernel unpacks it by copying.
set -eu

busybox=busybox
if [ "$1" = -a ]; then
    [ "$2" = i386 ] || busybox=busybox-$2
    shift 2
fi
build=$1
out=$2
shift 2
here=$(dirname "$0")
cache=${NOVT_GUEST_CACHE:-$build/guests}

{
    for d in bin dev etc proc sys tmp; do
        echo "dir $d 755"
    done
    echo 'nod dev/console 600 c 5 1'
    echo 'nod dev/null 666 c 1 3'
    echo 'nod dev/ttyS0 600 c 4 64'
    echo "file bin/busybox 755 $cache/$busybox"
    echo 'slink bin/sh busybox'
    echo "file init 755 $here/initramfs/init"
    echo "file etc/session 755 $here/initramfs/session"
    for extra in "$@"; do
        echo "file ${extra%%=*} 755 ${extra#*=}"
    done
} | "$build/tools/mkcpio" >"$out.tmp"
mv "$out.tmp" "$out"
