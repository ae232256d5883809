//! Runs one process in a root filesystem: namespaces, ids, mounts, network, seccomp, the privilege ladder. Unaware of images, layers, Dockerfiles.
