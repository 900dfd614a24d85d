#!/usr/bin/env bash
# In ipykernel 7.4 one widget's message overtakes another's that was sent before it on the same channel.
#
# Guess before trying: comm messages without a subshell in their header belong to the main thread, which handles them in
# the order in which they come, as the protocol says of messages without `subshell_id`.
# Seen with ipykernel 7.4.0 and jupyter_client 8.10.0: a comm remembers the subshell in which it last sent something, and
# later messages to it are handled there, whatever their header says. A text field that was once set from a subshell and
# a button that never was live in two threads from then on: while the field's subshell is busy, "clicked" is handled and
# "typed", sent before it, waits. A form reads the old text. JupyterLab sends widget messages by subshells where it can.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ipykernel==7.4.0 jupyter_client==8.10.0 comm==0.2.3
"$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import time

from jupyter_client.manager import start_new_kernel

SETUP = """
log, comms = [], {}


def opened(comm, message):
    name = message["content"]["data"]["name"]
    comms[name] = comm

    @comm.on_msg
    def heard(message):
        log.append(message["content"]["data"]["text"])
        if message["content"]["data"].get("answer"):
            comm.send({"ok": True})


get_ipython().kernel.comm_manager.register_target("demo", opened)
"""
manager, client = start_new_kernel()
replies = {}


def run(code, **header):
    """Execute code, in a subshell if the header names one; returns the message's id."""
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {"log": "log"}}
    message = client.session.msg("execute_request", content | {"allow_stdin": False})
    message["header"] |= header
    client.shell_channel.send(message)
    return message["header"]["msg_id"]


def reply(sent):
    while sent not in replies:
        message = client.get_shell_msg(timeout=60)
        replies[message["parent_header"].get("msg_id")] = message["content"]
    return replies[sent]


def seen(kind):
    while client.get_iopub_msg(timeout=60)["msg_type"] != kind:
        pass


def comm(kind, content, **header):
    message = client.session.msg(kind, content)
    message["header"] |= header
    client.shell_channel.send(message)


def tell(which, text, **more):
    comm("comm_msg", {"comm_id": which, "data": {"text": text, **more.pop("data", {})}}, **more)


def logged():
    return reply(run("pass"))["user_expressions"]["log"]["data"]["text/plain"]


try:
    reply(run(SETUP))
    for name in ("field", "button"):
        comm("comm_open", {"comm_id": name, "target_name": "demo", "data": {"name": name}})
    tell("field", "typed 1")
    tell("button", "clicked 1")
    time.sleep(1)
    first = logged()
    client.control_channel.send(client.session.msg("create_subshell_request", {}))
    subshell = client.get_control_msg(timeout=30)["content"]["subshell_id"]
    # one message to the field by way of a subshell, which it answers
    tell("field", "typed 2", data={"answer": True}, subshell_id=subshell)
    seen("comm_msg")
    busy = run("print('begun', flush=True); time.sleep(8)", subshell_id=subshell)  # that subshell works
    seen("stream")
    tell("field", "typed 3")  # both without a subshell: for the main thread, one after the other
    tell("button", "clicked 3")
    reply(busy)
    time.sleep(1)
    after = logged()
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
print(f"before: {first}\nafter: {after}")
assert first == "['typed 1', 'clicked 1']", first
assert after.endswith("'typed 2', 'clicked 3', 'typed 3']"), after
PYTHON
