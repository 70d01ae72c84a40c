# common.sh - a Debian userland in a guest and natively. Sourced by run and churn, never run.
#
# Sets B, cache, work (removed at the end) and user (the prefix that drops root's rights: novt runs
# as nobody). $work/initrd is the userland with tests/debian/sessions and the built programs under
# /etc/novt; the same files are in $work/novt for the native runs.

B=${B:-build}
cache=${NOVT_GUEST_CACHE:-$B/guests}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

user=
if [ "$(id -u)" = 0 ]; then
    user='setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs'
    $user true 2>/dev/null || user='setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs'
fi

# What needs to be built, and from make fetch.
TARGETS='all tools fetch tests-debian'

# The userland itself, built when it is missing. Status 3: only root can build it.
have_userland()
{
    guest-support/mkuserland.sh "$B"
}

# Everything that a guest boots, readable for nobody, wherever the checkout is.
make_initrd()
{
    mkdir -p "$work/novt/programs" "$work/novt/source" || exit 2
    cp tests/debian/sessions/* "$work/novt/" || exit 2
    cp "$B"/tests/debian/programs/* "$work/novt/programs/" || exit 2
    cp "$cache/busybox" "$work/novt/programs/busybox32" || exit 2
    cp "$B"/tests/debian/source/*.i tests/debian/programs/compute.c "$work/novt/source/" || exit 2
    {
        echo "file init 755 guest-support/userland/init"
        echo "file usr/bin/busybox 755 $cache/busybox-amd64"
        (cd "$work" && find novt -type d) | sort | sed 's|.*|dir etc/& 755|'
        (cd "$work" && find novt -type f) | sort | sed "s|.*|file etc/& 755 $work/&|"
    } | "$B/tools/mkcpio" >"$work/overlay.cpio" || exit 2
    cat "$cache/userland.cpio" "$work/overlay.cpio" >"$work/initrd" || exit 2
    cp "$B/novt" "$work/novt.bin"
    chmod 755 "$work/novt.bin"
    chmod 644 "$work/initrd"
}

# kernel FLAVOUR: a copy of its bzImage that nobody can read.
kernel()
{
    [ -e "$work/vmlinuz-$1" ] || cp "$cache/vmlinuz-$1" "$work/"
    chmod 644 "$work/vmlinuz-$1"
    echo "$work/vmlinuz-$1"
}

# native SESSION...: what the guest does, on the host's CPU: chroot into the same files, with a network,
# a /tmp and a /proc of its own.
native()
{
    root=$(cd "$cache/userland" && pwd)
    unshare --mount --net --pid --fork --kill-child sh -c '
        root=$1 files=$2 busybox=$3
        shift 3
        mount -t tmpfs tmp "$root/tmp" && mount -t proc proc "$root/proc" &&
            mount --bind "$files" "$root/etc/novt" && "$busybox" ip link set lo up || exit 2
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 \
            chroot "$root" /etc/novt/all "$@"' \
        native "$root" "$work/novt" "$cache/busybox-amd64" "$@" </dev/null
}

# memory_of PID: what novt itself takes, in KiB: resident memory but the guest's, and page tables:
#   TOTAL ANONYMOUS PAGE-TABLES CACHES MAPPINGS
# The guest's RAM is the memfd novt-ram. The code cache and other tables are memfds, too, mapped more
# than once: the file's size counts.
memory_of()
{
    caches=0
    for fd in "/proc/$1"/fd/*; do
        case $(readlink "$fd") in
        /memfd:novt-ram*) ;;
        /memfd:*) caches=$((caches + $(stat -L -c %b "$fd") / 2)) ;;
        esac
    done
    awk -v caches=$caches '
        $1 == "RssAnon:" { anon = $2 }
        $1 == "RssFile:" { file = $2 }
        $1 == "VmPTE:" { tables = $2 }
        FILENAME ~ /maps$/ { maps++ }
        END { print anon + file + tables + caches, anon, tables, caches, maps }
    ' "/proc/$1/status" "/proc/$1/maps" 2>/dev/null
}
