# shellcheck shell=bash
# The project's own programs: the driver domain's image and dom0's tool.

IMAGE_TARGET=x86_64-unknown-none

# Sets IMAGE, PAIRED, VDOM and HOSTILE to the built files.
need_programs() {
    local target=${CARGO_TARGET_DIR:-$VD_ROOT/target}
    # shellcheck disable=SC2034 # used by overlay.sh
    IMAGE=$target/$IMAGE_TARGET/release/virtio-domain PAIRED=$target/$IMAGE_TARGET/release/virtio-paired
    # shellcheck disable=SC2034 # used by overlay.sh
    VDOM=$target/release/vdom HOSTILE=$target/release/hostile
    say "building the driver domain's image, the paired guest's, vdom and the hostile driver"
    build_program vdom
    # The guest has no libraries for it.
    (cd "$VD_ROOT" && cargo rustc --quiet --release --locked --package vd-hostile --bin hostile -- -C target-feature=+crt-static) ||
        die "cargo could not build vd-hostile"
    build_program virtio-domain --target "$IMAGE_TARGET"
    build_program virtio-paired --target "$IMAGE_TARGET"
}

build_program() {
    (cd "$VD_ROOT" && cargo build --quiet --release --locked --package "$@") || die "cargo could not build $1"
}
