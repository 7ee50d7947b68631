"""Connection to a node of the lab: a shell in all its namespaces. A file /run/cut on the node is a connection that is lost; who
meets it leaves /run/cut-was-met. A node that is off has no file with its PID 1."""

from __future__ import annotations

DOCUMENTATION = """
name: lab
short_description: Enters the namespaces of a node of the lab
description: Enters the namespaces of a node of the lab.
options:
  folder:
    description: Where a file NODE.pid holds the node's PID 1, as the machine sees it.
    vars: [{name: lab_folder}]
  node:
    description: The node's name.
    vars: [{name: inventory_hostname}]
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

    def _pid(self):
        try:
            with open("%s/%s.pid" % (self.get_option("folder"), self.get_option("node"))) as file:
                return file.read()
        except FileNotFoundError as error:
            raise AnsibleConnectionFailure("the node is off") from error

    def _root(self):
        root = "/proc/%s/root" % self._pid()
        if os.path.exists(root + "/run/cut"):
            open(root + "/run/cut-was-met", "w").close()
            raise AnsibleConnectionFailure("the connection is lost")
        return root

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        self._root()
        pid = self._pid()
        argv = ["nsenter", "--target", pid, "--all", "/bin/sh", "-c", cmd]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        done = subprocess.run(argv, input=in_data, capture_output=True, env=environment)
        self._root()
        if self._pid() != pid:
            raise AnsibleConnectionFailure("the node went down")
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path, out_path):
        shutil.copyfile(in_path, self._root() + out_path)

    def fetch_file(self, in_path, out_path):
        shutil.copyfile(self._root() + in_path, out_path)

    def close(self):
        self._connected = False
