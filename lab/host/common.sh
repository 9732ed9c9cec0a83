# shellcheck shell=bash
# Common ground of the host side: messages, lists, and the cache.
#
# Every product of the lab lies in a directory of the cache whose name ends in a hash of all that it is made from, and
# appears there by a rename when it is complete. So whatever is in the cache is whole and up to date.

VD_CACHE=${VD_CACHE:-$VD_ROOT/.cache/lab}
# shellcheck disable=SC2034 # used by the other files of this directory
VD_LAB=$VD_ROOT/lab

say() {
    printf '%s %s\n' "$(date +%T)" "$*" >&2
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# list FILE: the file's entries, one a line, without comments.
list() {
    sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$1"
}

# key FILE...: a short hash of the contents.
key() {
    cat -- "$@" | sha256sum | cut -c 1-16
}

# cached VARIABLE NAME KEY COMMAND [ARG...]: sets VARIABLE to the directory NAME-KEY of the cache. If it is not there
# yet, COMMAND ARG... DIRECTORY has to fill it.
cached() {
    local -n cached_result=$1
    local name=$2 directory=$VD_CACHE/$2-$3 temporary
    shift 3
    if [[ ! -d $directory ]]; then
        say "building $name"
        temporary=$(mktemp -d "$VD_CACHE/tmp.$name.XXXXXX")
        "$@" "$temporary"
        chmod 755 "$temporary"
        rm -rf "$VD_CACHE/$name"-*
        mv "$temporary" "$directory"
        say "$name is ready ($(du -sh "$directory" | cut -f 1))"
    fi
    # shellcheck disable=SC2034 # a reference to the caller's variable
    cached_result=$directory
}

# pack DIRECTORY: writes the directory as a cpio archive, as the kernel wants it, to standard output.
pack() {
    (cd "$1" && find . -mindepth 1 -printf '%P\0' | LC_ALL=C sort -z |
        cpio --null --create --quiet --format=newc --owner=0:0 --reproducible)
}
