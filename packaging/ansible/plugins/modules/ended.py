#!/usr/bin/python
"""nodectl.cni.ended: says whether what nodectl.cni.run has started is still at work on this node, and how it ended."""

# Apache-2.0; see LICENSE of nodectl.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: ended
short_description: Says how a run of nodectl on this node stands
description:
  - Looks at the unit that M(nodectl.cni.run) has started, and at what nodectl says of its runs; changes nothing.
  - A node that went down meanwhile has a run that C(nodectl-settle.service) finishes or takes back. It is at work until then, and has
    ended well only where what was asked for is done.
options:
  start:
    description: What M(nodectl.cni.run) answered as C(start).
    type: dict
    required: true
author: nodectl maintainers (@nodectl)
attributes:
  check_mode: {support: full, description: Changes nothing.}
  diff_mode: {support: none, description: Changes nothing.}
"""

EXAMPLES = r"""
- name: Wait for its end
  nodectl.cni.ended:
    start: "{{ run.start }}"
  register: state
  until: not (state.at_work | default(true))
  retries: 100
"""

RETURN = r"""
at_work: {description: Whether it is still at work., type: bool, returned: always}
unit_at_work: {description: Whether its own unit is., type: bool, returned: always}
well: {description: Whether it has ended well., type: bool, returned: always}
unconfirmed: {description: Whether all is done and waits to be confirmed., type: bool, returned: always}
why: {description: How it stands., type: str, returned: always}
own_open: {description: The open run where it is what was started., type: str, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodectl.cni.plugins.module_utils import nodectl


def main():
    module = AnsibleModule(argument_spec={"start": {"type": "dict", "required": True}}, supports_check_mode=True)
    start = module.params["start"]
    # The units first: a run that one of them closes between the two questions is closed, and not left alone.
    now = {
        "boot": nodectl.boot(),
        "unit": nodectl.unit(module, start["unit"]),
        "keepers": [nodectl.unit(module, name) for name in nodectl.KEEPERS],
    }
    now["runs"] = nodectl.runs(module)
    stands, why = nodectl.verdict(start, now)
    if stands is None:
        code, document, _ = nodectl.ask(module, start["command"] + ["--dry-run"])
        stands = "well" if code == 0 and document.get("outcome") == "nothing-to-do" else "ill"
    opened = [run for run in now["runs"] if run["open"]]
    module.exit_json(
        changed=False,
        at_work=stands == "at-work",
        unit_at_work=nodectl.is_busy(now["unit"]),
        well=stands == "well",
        unconfirmed=stands == "well" and bool(opened),
        why=why,
        own_open=nodectl.own_open(start, now),
    )


if __name__ == "__main__":
    main()
