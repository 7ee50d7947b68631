//! Keys, certificates and kubeconfig files of a lab cluster.
