#!/bin/sh
# run-guest.sh BUILD FLAVOUR [OPTIONS of novt run] - boots the demo guest: an unmodified Debian
# kernel, of a flavour that fetch-guest.sh knows.
#
# At a terminal it leaves the user at the guest's shell. Without one the guest runs a scripted
# session and powers off; the exit status is 0 only if the whole session came through.
set -eu

build=$1
flavour=$2
shift 2
here=$(dirname "$0")
cache=${NOVT_GUEST_CACHE:-$build/guests}
case "$flavour" in
*amd64)
    arch=amd64
    memory=1G
    ;;
*)
    arch=i386
    memory=512M
    ;;
esac

"$here/fetch-guest.sh" "$build" "$flavour"
initrd=$build/guest-$arch.cpio
"$here/mkinitramfs.sh" -a "$arch" "$build" "$initrd"

boot()
{
    append=$1
    shift
    "$build/novt" run --kernel "$cache/vmlinuz-$flavour" --initrd "$initrd" --memory "$memory" \
        --append "console=ttyS0 $append" "$@"
}

if [ -t 0 ] && [ -t 1 ]; then
    boot 'loglevel=5' "$@"
    exit
fi

output=$build/run-$arch.out
status=$build/run-$arch.status
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
