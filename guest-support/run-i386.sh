#!/bin/sh
# run-i386.sh BUILD [OPTIONS of novt run] - boots the demo guest: an unmodified Debian i386 kernel.
#
# At a terminal it leaves the user at the guest's shell. Without one the guest runs a scripted
# session and powers off; the exit status is 0 only if the whole session came through.
# NOVT_FLAVOUR chooses the kernel: 686-pae (the default) or 686.
set -eu

build=$1
shift
here=$(dirname "$0")
flavour=${NOVT_FLAVOUR:-686-pae}
cache=${NOVT_GUEST_CACHE:-$build/guests}

"$here/fetch-i386.sh" "$build" "$flavour"
initrd=$build/guest-i386.cpio
"$here/mkinitramfs.sh" "$build" "$initrd"

boot()
{
    append=$1
    shift
    "$build/novt" run --kernel "$cache/vmlinuz-$flavour" --initrd "$initrd" --memory 512M \
        --append "console=ttyS0 $append" "$@"
}

if [ -t 0 ] && [ -t 1 ]; then
    boot 'loglevel=5' "$@"
    exit
fi

output=$build/run-i386.out
status=$build/run-i386.status
{
    boot 'loglevel=5 novt.session=session' "$@" </dev/null && echo 0 >"$status" || echo $? >"$status"
} | tee "$output"
if [ "$(cat "$status")" != 0 ]; then
    echo "run: novt ended with status $(cat "$status")" >&2
    exit "$(cat "$status")"
fi
if ! grep -q -e '--- session ends ---' "$output"; then
    echo "run: the guest powered off before its session was over" >&2
    exit 1
fi
