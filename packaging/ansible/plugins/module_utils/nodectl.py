"""What the modules of nodectl.cni ask nodectl, systemd and the kernel on a node, and what they make of the answers."""

# Apache-2.0; see LICENSE of nodectl.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json

PACKAGED = "cni-migrate.service"
# They end what another unit, or a reboot, has left open.
KEEPERS = ["nodectl-settle.service", "nodectl-deadman.service"]
# Exit codes of nodectl.
REFUSED = 3
MEANINGS = {3: ", refused", 4: ", put back", 5: ", needs hands or owes", 75: ", another nodectl was at work"}
# With these the command has left no run open: nothing was changed, or all of it was put back.
LEFT_NOTHING = [1, 3, 4, 64, 75]


def ask(module, argv):
    """A command of nodectl that changes nothing: its exit code, its document, what it said besides."""
    code, out, err = module.run_command(["nodectl"] + argv + ["--output", "json"])
    try:
        return code, json.loads(out), err
    except ValueError:
        module.fail_json(msg="nodectl did not answer (exit %d): %s" % (code, err or out), rc=code)


def runs(module):
    """The runs on this node, oldest first."""
    code, document, err = ask(module, ["history"])
    if code != 0:
        module.fail_json(msg="nodectl cannot say which runs there were (exit %d): %s" % (code, err), rc=code)
    return document["runs"]


def boot():
    """Which boot of the machine this is."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def unit(module, name):
    """How a unit stands. One that systemd does not know is inactive, and its result is success."""
    properties = "ActiveState,Job,Result,ExecMainStatus"
    code, out, err = module.run_command(["systemctl", "show", name, "-p", properties])
    if code != 0:
        module.fail_json(msg="systemd cannot say how %s stands: %s" % (name, err or out), rc=code)
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def is_busy(state):
    """Whether a unit is at work. A job that waits in the queue has not begun."""
    waits = state.get("Job", "0") not in ("", "0")
    return waits or state.get("ActiveState") in ("activating", "deactivating", "reloading")


def since(start, runs):
    """The runs that were begun since."""
    known = [n for n, run in enumerate(runs) if run["run"] == start["last"]]
    return runs[known[-1] + 1:] if known else runs


def failure(state):
    """How a unit that failed has ended, for people."""
    code = int(state.get("ExecMainStatus") or 0)
    if state.get("Result") != "exit-code":
        return "failed (%s)" % state.get("Result")
    return "failed (exit %d%s)" % (code, MEANINGS.get(code, ""))


def own_open(start, now):
    """Id of the open run, where it is what this start began."""
    began = since(start, now["runs"])
    opened = [run["run"] for run in began if run["open"]]
    state = now["unit"]
    if not opened:
        return ""
    if now["boot"] != start["boot"]:
        return opened[0] if opened[0] == began[0]["run"] else ""
    left_nothing = state.get("Result") == "exit-code" and int(state.get("ExecMainStatus") or 0) in LEFT_NOTHING
    return "" if left_nothing else opened[0]


def verdict(start, now):
    """How the start stands: "at-work", "well" or "ill", and why; None where only nodectl can say whether there is more to do.

    The unit alone does not tell. After a reboot it has never been started, and systemd says of such a one what it says of one that
    ended well; and what the reboot has left open is ended by another unit, one way or the other.
    """
    if is_busy(now["unit"]):
        return "at-work", "still runs"
    rebooted = now["boot"] != start["boot"]
    if not rebooted and now["unit"].get("Result") != "success":
        return "ill", failure(now["unit"])
    how = "was cut short by a reboot, and " if rebooted else ""
    began = since(start, now["runs"])
    for run in [run for run in now["runs"] if run["open"]]:
        # It has done all its steps, and the timer that would take it back runs.
        if run in began and run.get("confirm_by") and not run["back"] and not rebooted:
            return "well", "waits to be confirmed"
        if any(is_busy(keeper) for keeper in now["keepers"]):
            return "at-work", how + "run %s is still being ended" % run["run"]
        return "ill", how + "run %s is open, and nobody ends it. To fix it: see `nodectl status` there" % run["run"]
    # A run whose journal was begun and nothing else has changed nothing.
    ended = [run for run in began if run["outcome"]]
    wanted = "switched"
    if not ended and start["undoes"]:
        ended, wanted = [run for run in now["runs"] if run["run"] == start["undoes"]], "put-back"
    if not ended:
        return None, how + "nothing was done"
    outcome = ended[-1]["outcome"]
    said = "run %s was %s" % (ended[-1]["run"], {"switched": "finished", "put-back": "put back"}.get(outcome, outcome))
    return ("well" if outcome == wanted else "ill"), how + said
