# shellcheck shell=bash
# The project's own programs: the driver domain's image and dom0's tool.

IMAGE_TARGET=x86_64-unknown-none

# Sets IMAGE, PAIRED, VDOM, HOSTILE and CHURN to the built files.
need_programs() {
    local target=${CARGO_TARGET_DIR:-$VD_ROOT/target}
    # shellcheck disable=SC2034 # used by overlay.sh
    IMAGE=$target/$IMAGE_TARGET/release/virtio-domain PAIRED=$target/$IMAGE_TARGET/release/virtio-paired
    # shellcheck disable=SC2034 # used by overlay.sh
    VDOM=$target/release/vdom HOSTILE=$target/release/hostile CHURN=$target/release/churn
    say "building the driver domain's image, the paired guest's, vdom and the guest's programs"
    build_program vdom
    build_static vd-hostile hostile
    build_static vd-churn churn
    build_program virtio-domain --target "$IMAGE_TARGET"
    build_program virtio-paired --target "$IMAGE_TARGET"
}

build_program() {
    (cd "$VD_ROOT" && cargo build --quiet --release --locked --package "$@") || die "cargo could not build $1"
}

# build_static PACKAGE PROGRAM: a program for the guest, which has no libraries for it.
build_static() {
    (cd "$VD_ROOT" && cargo rustc --quiet --release --locked --package "$1" --bin "$2" -- -C target-feature=+crt-static) ||
        die "cargo could not build $1"
}
