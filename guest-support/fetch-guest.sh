#!/bin/sh
# fetch-guest.sh BUILD FLAVOUR - an unmodified Debian kernel and a static busybox for it.
#
# FLAVOUR is 686 or 686-pae (i386), cloud-amd64 or amd64. Afterwards the cache ($NOVT_GUEST_CACHE,
# else BUILD/guests) holds
#
#   vmlinuz-FLAVOUR  the bzImage as the package has it
#   vmlinux-FLAVOUR  the ELF that is compressed in it (for PVH boots and debuggers)
#   busybox          from busybox-static; busybox-amd64 with an amd64 kernel
#
# and nothing is done when it already does. The machine's apt configuration is read (mirrors,
# proxies) but not changed: lists, caches and status are private to the cache. Where the machine's
# own sources do not have the packages, Debian 12's are asked. No privileges are needed.
set -eu

build=$1
flavour=$2
here=$(dirname "$0")
cache=${NOVT_GUEST_CACHE:-$build/guests}

case "$flavour" in
686 | 686-pae)
    arch=i386
    busybox=busybox
    ;;
amd64 | cloud-amd64)
    arch=amd64
    busybox='busybox-amd64'
    ;;
*)
    echo "fetch-guest: unknown flavour '$flavour'" >&2
    exit 2
    ;;
esac

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/lock"
flock 9

[ -s "$cache/vmlinuz-$flavour" ] && [ -s "$cache/vmlinux-$flavour" ] && [ -s "$cache/$busybox" ] &&
    exit 0

fail()
{
    echo "fetch-guest: $*" >&2
    [ ! -s "$cache/apt.log" ] || tail -n 20 "$cache/apt.log" >&2
    exit 1
}

# apt TOOL ARGS...: with a state of its own, as if on a machine of that architecture with nothing
# installed.
state=$cache/apt/$arch
apt()
{
    tool=$1
    shift
    "$tool" -q -oAPT::Architecture="$arch" -oAPT::Architectures="$arch" \
        -oDir::State::Lists="$state/lists" -oDir::Cache="$state/cache" \
        -oDir::State::status=/dev/null -oAPT::Sandbox::User=root -oAcquire::Languages=none \
        -oAcquire::Retries=3 ${sources:+-oDir::Etc::SourceList="$sources"} \
        ${sources:+-oDir::Etc::SourceParts=/dev/null} "$@" 2>>"$cache/apt.log"
}

# The package that a package without a version of its own stands for, e.g. linux-image-686.
kernel_package()
{
    apt apt-cache depends "linux-image-$flavour" | awk '$1 == "Depends:" && /linux-image-/ { print $2; exit }'
}

# The update may fail for some index and still have what is needed: only the outcome counts.
find_package()
{
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    package=$(kernel_package) || package=
    [ -n "$package" ] && return 0
    apt apt-get update >>"$cache/apt.log" </dev/null || true
    package=$(kernel_package) || package=
    [ -n "$package" ]
}

# fetch PACKAGE MEMBER: downloads the package and unpacks that one file of it.
fetch()
{
    (cd "$cache/unpack" && apt apt-get download "$1" >>"$cache/apt.log" </dev/null) || return 1
    for deb in "$cache/unpack/$1"_*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$cache/unpack" "./$2" && rm -f "$deb"
    done
}

echo "Fetching Debian's $arch kernel ($flavour) and busybox into ${cache##"$PWD"/} ..."
: >"$cache/apt.log"
sources=
if ! find_package; then
    rm -rf "$state"
    mkdir -p "$state"
    sources=$state/sources.list
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keyring" ] && signed="[signed-by=$keyring] " || signed=
    echo "deb ${signed}http://deb.debian.org/debian bookworm main" >"$sources"
    find_package || fail "no mirror has linux-image-$flavour for $arch; apt said:"
fi

rm -rf "$cache/unpack"
mkdir -p "$cache/unpack"
fetch "$package" "boot/vmlinuz-${package#linux-image-}" || {
    # Lists that are older than the mirror's contents name files that are gone.
    apt apt-get update >>"$cache/apt.log" </dev/null || true
    package=$(kernel_package)
    fetch "$package" "boot/vmlinuz-${package#linux-image-}" ||
        fail "cannot download $package; apt said:"
}
if [ ! -s "$cache/$busybox" ]; then
    fetch busybox-static bin/busybox || fail "cannot download busybox-static; apt said:"
    mv "$cache/unpack/bin/busybox" "$cache/$busybox"
fi
vmlinuz=$cache/unpack/boot/vmlinuz-${package#linux-image-}
"$here/extract-vmlinux" "$vmlinuz" "$cache/vmlinux-$flavour"
mv "$vmlinuz" "$cache/vmlinuz-$flavour"
rm -rf "$cache/unpack" "$cache/apt.log"
