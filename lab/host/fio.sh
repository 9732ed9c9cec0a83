# shellcheck shell=bash
# fio without its network storage.
#
# Debian's fio is linked with the libraries of every storage system that it can drive (Ceph, GlusterFS, NFS, RDMA, ...),
# 60 MB that a guest with one local disk never calls. This puts empty stand-ins in their place: libraries with the same
# names, versions and symbols, whose functions abort.

# Libraries that fio really uses here.
FIO_REAL='^(libc|libm|libz|libaio|libnuma)\.so'

# fio_stand_ins TREE: adds the stand-ins to an unpacked tree that has fio.
fio_stand_ins() {
    local fio=$1/usr/bin/fio libraries=$1/usr/lib/x86_64-linux-gnu library work
    work=$(mktemp -d)
    # Lines NAME or NAME@VERSION. A symbol without a version may come from any library: the first gets all of those.
    readelf --wide --dyn-syms "$fio" |
        awk '$4 == "FUNC" && $7 == "UND" && $8 !~ /@GLIBC/ { print $8 }' >"$work/symbols"
    grep -vE '@|^(inflate|deflate)' "$work/symbols" | functions >"$work/stand-in.c"
    readelf --wide --dynamic "$fio" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE "$FIO_REAL" |
        while read -r library; do
            versions "$fio" "$library" >"$work/versions"
            versioned_functions "$work"
            gcc -shared -fPIC -w -fno-builtin -nostdlib -Wl,-soname="$library" \
                -Wl,--version-script="$work/script" -o "$libraries/$library" "$work/stand-in.c"
            : >"$work/stand-in.c"
        done
    rm -r "$work"
}

# versions PROGRAM LIBRARY: the symbol versions that the program expects in the library.
versions() {
    readelf --wide --version-info "$1" | awk -v library="$2" '
        /File:/ { ours = ($5 == library) }
        /Name:/ && ours { print $3 }'
}

# versioned_functions WORK: adds the functions of the versions in WORK/versions, and writes the linker's version script.
versioned_functions() {
    local work=$1 version names
    : >"$work/script"
    while read -r version; do
        names=$(sed -n "s/@$version\$//p" "$work/symbols")
        functions <<<"$names" >>"$work/stand-in.c"
        echo "$version { ${names//$'\n'/; }; };" >>"$work/script"
    done <"$work/versions"
    [[ -s $work/script ]] || echo '{ *; };' >"$work/script"
}

# Makes a C function of every line.
functions() {
    sed 's/.*/void &(void) { __builtin_trap(); }/'
}
