"""Images and the layer store: from what `rootfs=` names to directories that overlayfs stacks. Mounts nothing of a sandbox."""
