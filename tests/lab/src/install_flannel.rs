//! Flannel's init container that installs its CNI files.
