# Debian packages that are booted. Only the kernel and Xen themselves are taken, not what they depend on.
xen-hypervisor-4.20-amd64
linux-image-amd64
