"""Connection to a node of the lab: a shell in all its namespaces. A file /run/cut on the node is a connection that is lost; who
meets it leaves /run/cut-was-met."""

from __future__ import annotations

DOCUMENTATION = """
name: lab
short_description: Enters the namespaces of a node of the lab
description: Enters the namespaces of a node of the lab.
options:
  pid:
    description: The node's PID 1, as the machine sees it.
    vars: [{name: lab_pid}]
"""

import os
import shutil
import subprocess

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase


class Connection(ConnectionBase):
    transport = "lab"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def _root(self):
        root = "/proc/%s/root" % self.get_option("pid")
        if os.path.exists(root + "/run/cut"):
            open(root + "/run/cut-was-met", "w").close()
            raise AnsibleConnectionFailure("the connection is lost")
        return root

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        self._root()
        argv = ["nsenter", "--target", str(self.get_option("pid")), "--all", "/bin/sh", "-c", cmd]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        done = subprocess.run(argv, input=in_data, capture_output=True, env=environment)
        self._root()
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path, out_path):
        shutil.copyfile(in_path, self._root() + out_path)

    def fetch_file(self, in_path, out_path):
        shutil.copyfile(self._root() + in_path, out_path)

    def close(self):
        self._connected = False
