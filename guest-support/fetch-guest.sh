#!/bin/sh
# fetch-guest.sh BUILD FLAVOUR - an unmodified Debian kernel and a static busybox for it.
#
# FLAVOUR is 686 or 686-pae (i386), cloud-amd64 or amd64; or installer-i386 or installer-amd64,
# the text-mode network installer. Afterwards the cache ($NOVT_GUEST_CACHE, else BUILD/guests) holds
#
#   vmlinuz-FLAVOUR  the bzImage as the package has it
#   vmlinux-FLAVOUR  the ELF that is compressed in it (for PVH boots and debuggers)
#   busybox          from busybox-static; busybox-amd64 with an amd64 kernel
#   initrd-FLAVOUR   the installer's initrd, gzip-compressed; in place of vmlinux and busybox
#
# and nothing is done when it already does. The machine's apt configuration is read (mirrors,
# proxies) but not changed: lists, caches and status are private to the cache. Where the machine's
# own sources do not have the packages, Debian 12's are asked. No privileges are needed.
set -eu

build=$1
flavour=$2
here=$(dirname "$0")
cache=${NOVT_GUEST_CACHE:-$build/guests}

files="vmlinuz-$flavour vmlinux-$flavour"
case "$flavour" in
686 | 686-pae)
    arch=i386
    busybox=busybox
    files="$files $busybox"
    ;;
amd64 | cloud-amd64)
    arch=amd64
    busybox='busybox-amd64'
    files="$files $busybox"
    ;;
installer-i386 | installer-amd64)
    arch=${flavour#installer-}
    busybox=
    files="vmlinuz-$flavour initrd-$flavour"
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

complete=true
for file in $files; do
    [ -s "$cache/$file" ] || complete=false
done
$complete && exit 0

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

# The package to download, or nothing if the lists do not have it. linux-image-686 and the like have
# no files of their own, they depend on the current version.
kernel_package()
{
    case "$flavour" in
    installer-*)
        apt apt-cache show --no-all-versions "debian-installer-12-netboot-$arch" |
            sed -n 's/^Package: //p'
        ;;
    *)
        apt apt-cache depends "linux-image-$flavour" |
            awk '$1 == "Depends:" && /linux-image-/ { print $2; exit }'
        ;;
    esac
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

# fetch PACKAGE MEMBER...: downloads the package and unpacks those files of it.
fetch()
{
    deb_name=$1
    shift
    (cd "$cache/unpack" && apt apt-get download "$deb_name" >>"$cache/apt.log" </dev/null) || return 1
    for deb in "$cache/unpack/$deb_name"_*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$cache/unpack" "$@" && rm -f "$deb"
    done
}

# The flavour's own files, unpacked under $cache/unpack.
fetch_flavour()
{
    case "$flavour" in
    installer-*)
        images=./usr/lib/debian-installer/images/12/$arch/text/debian-installer/$arch
        vmlinuz=$cache/unpack/$images/linux
        fetch "$package" "$images/linux" "$images/initrd.gz"
        ;;
    *)
        vmlinuz=$cache/unpack/boot/vmlinuz-${package#linux-image-}
        fetch "$package" "./boot/vmlinuz-${package#linux-image-}"
        ;;
    esac
}

echo "Fetching Debian's $arch guest ($flavour) into ${cache##"$PWD"/} ..."
: >"$cache/apt.log"
sources=
if ! find_package; then
    rm -rf "$state"
    mkdir -p "$state"
    sources=$state/sources.list
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keyring" ] && signed="[signed-by=$keyring] " || signed=
    echo "deb ${signed}http://deb.debian.org/debian bookworm main" >"$sources"
    find_package || fail "no mirror has what $flavour needs; apt said:"
fi

rm -rf "$cache/unpack"
mkdir -p "$cache/unpack"
fetch_flavour || {
    # Lists that are older than the mirror's contents name files that are gone.
    apt apt-get update >>"$cache/apt.log" </dev/null || true
    package=$(kernel_package)
    fetch_flavour || fail "cannot download $package; apt said:"
}
case "$flavour" in
installer-*)
    mv "$(dirname "$vmlinuz")/initrd.gz" "$cache/initrd-$flavour"
    ;;
*)
    "$here/extract-vmlinux" "$vmlinuz" "$cache/vmlinux-$flavour"
    ;;
esac
if [ -n "$busybox" ] && [ ! -s "$cache/$busybox" ]; then
    fetch busybox-static ./bin/busybox || fail "cannot download busybox-static; apt said:"
    mv "$cache/unpack/bin/busybox" "$cache/$busybox"
fi
mv "$vmlinuz" "$cache/vmlinuz-$flavour"
rm -rf "$cache/unpack" "$cache/apt.log"
