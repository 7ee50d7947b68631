//! The stand-in for flanneld (VXLAN backend).
