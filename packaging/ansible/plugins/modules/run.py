#!/usr/bin/python
"""nodectl.cni.run: starts what a command of nodectl would change on this node, as a unit of systemd, and does not wait for it."""

# Apache-2.0; see LICENSE of nodectl.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: run
short_description: Starts a run of nodectl on this node
description:
  - Asks nodectl with C(--dry-run) what the command would change.
  - Where that is nothing, nothing is done. In check mode it ends there, with what would be changed as the diff.
  - Else the command is started as a unit of systemd, which goes on when the connection is lost. Role C(nodectl.cni.run) waits for it.
options:
  command:
    description: The command, as words.
    type: list
    elements: str
    required: true
  unit:
    description:
      - The unit that runs it.
      - C(cni-migrate.service) is the package's own and takes the command's parameters from the configuration. Any other name is
        made for this run.
    type: str
    default: cni-migrate.service
author: nodectl maintainers (@nodectl)
attributes:
  check_mode: {support: full, description: Asks and changes nothing.}
  diff_mode: {support: full, description: The steps of the plan.}
"""

EXAMPLES = r"""
- name: Switch this node
  nodectl.cni.run:
    command: [migrate, --to, calico]
  register: run
"""

RETURN = r"""
unit: {description: The unit that runs the command., type: str, returned: always}
outcome: {description: What the dry run came to., type: str, returned: always}
start: {description: What M(nodectl.cni.ended) must know of this start., type: dict, returned: always}
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodectl.cni.plugins.module_utils import nodectl

# As cni-migrate.service has them, and for its reasons.
PROPERTIES = [
    "Type=oneshot",
    "NotifyAccess=main",
    "TimeoutStartSec=infinity",
    "KillMode=mixed",
    "TimeoutStopSec=20min",
    "OnFailure=nodectl-settle.service",
]


def steps(plan):
    """The plan's steps, a line each."""
    return "".join("%s\n" % (step.get("step") or json.dumps(step, sort_keys=True)) for step in plan.get("steps", []))


def why(document, stderr):
    """Why nodectl refuses, in its own words."""
    failed = [check for check in document.get("checks", []) if check.get("verdict") == "fail"]
    words = ["%s: %s. To fix it: %s" % (check.get("name"), check.get("found"), check.get("fix", "")) for check in failed]
    return "\n".join(words + [document.get("error", "") or stderr]).strip()


def look(module, command):
    """What the command would change: its document. Fails where nodectl refuses or cannot say."""
    code, document, err = nodectl.ask(module, command + ["--dry-run"])
    if code != 0:
        verb = "refuses" if code == nodectl.REFUSED else "cannot say what it would change"
        module.fail_json(msg="nodectl %s (exit %d):\n%s" % (verb, code, why(document, err)), rc=code)
    return document


def remember(module, command, unit, document):
    """What tells this start from what was before it, and from a boot in which it never was."""
    runs = nodectl.runs(module)
    return {
        "boot": nodectl.boot(),
        "unit": unit,
        "command": command,
        "last": runs[-1]["run"] if runs else "",
        "undoes": document.get("run") or "",
    }


def start(module, command, unit):
    """Starts the unit without waiting for it."""
    # What is left of a run that failed would be in the way.
    module.run_command(["systemctl", "reset-failed", unit])
    if unit == nodectl.PACKAGED:
        argv = ["systemctl", "start", "--no-block", unit]
    else:
        properties = ["--property=" + each for each in PROPERTIES]
        argv = ["systemd-run", "--no-block", "--unit", unit] + properties + ["nodectl"] + command + ["--yes"]
    code, out, err = module.run_command(argv)
    if code != 0:
        module.fail_json(msg="%s could not be started: %s" % (unit, err or out), rc=code)


def main():
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str", "required": True},
            "unit": {"type": "str", "default": nodectl.PACKAGED},
        },
        supports_check_mode=True,
    )
    command, unit = module.params["command"], module.params["unit"]
    document = look(module, command)
    outcome = document.get("outcome", "would-change")
    changed = outcome != "nothing-to-do"
    diff = {"before": "", "after": steps(document.get("plan") or {}) or "%s %s\n" % (outcome, document.get("run", ""))}
    begun = remember(module, command, unit, document) if changed else {}
    if changed and not module.check_mode:
        start(module, command, unit)
    module.exit_json(changed=changed, unit=unit, outcome=outcome, start=begun, diff=diff if changed else {})


if __name__ == "__main__":
    main()
