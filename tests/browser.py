"""A headless Chromium, spoken to over a pipe by the DevTools protocol."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

# Chromium reads from descriptor 3 and writes to 4.
_AT_ITS_DESCRIPTORS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One page; `told` has its console's errors and warnings, `asked` what it wants to load."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._number = commands, answers, 0
        self._session = {}
        self.told, self.asked = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """The answer to a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path, width, scheme, height=900):
        """Loads a file at a width, light or dark, and waits until its charts are drawn."""
        self.told.clear()
        self.asked.clear()
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=mobile,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.run(
            """new Promise(done => { const look = () =>
            document.readyState === "complete" && [...document.querySelectorAll(".chart")]
            .every(c => c.querySelector("svg")) ? done(1) : setTimeout(look, 20); look(); })"""
        )

    def run(self, script):
        """The value of an expression of JavaScript; that of a promise when it is there."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def hover(self, selector):
        """Moves the mouse over the middle of an element."""
        middle = self.run(
            f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}}); const r = e.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2]; }})()"""
        )
        for shift in (0, 1):  # Vega looks at moves, and one alone comes from nowhere.
            self.point_at(middle[0] + shift, middle[1])

    def press(self, key, text=""):
        """Presses and lets go a key."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            code = {"Tab": 9, "Enter": 13}.get(key, 0)
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, **typed,
            )  # fmt: skip

    def point_at(self, x, y):
        """Moves the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path):
        """A picture of the whole page."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _next(self):
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            text += byte
        answer = json.loads(text)
        method, params = answer.get("method"), answer.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.told.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.told.append([one.get("value") for one in params["args"]])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.told.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        return answer


@contextlib.contextmanager
def chromium(folder):
    """A page of a browser with an empty profile in `folder`."""
    ours, theirs = [], []
    for mine, its in (os.pipe()[::-1], os.pipe()):
        ours.append(mine)
        theirs.append(fcntl.fcntl(its, fcntl.F_DUPFD, 10))
        os.close(its)
    arguments = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio",
        "--hide-scrollbars", "--disable-dev-shm-usage", f"--user-data-dir={folder}",
        "--remote-debugging-pipe",
    ]  # fmt: skip
    launcher = [sys.executable, "-ISc", _AT_ITS_DESCRIPTORS, *map(str, theirs), CHROMIUM]
    with open(ours[0], "wb") as commands, open(ours[1], "rb") as answers:
        process = subprocess.Popen(
            [*launcher, *arguments], pass_fds=theirs, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in theirs:
            os.close(descriptor)
        try:
            yield Page(commands, answers)
        finally:
            process.kill()
            process.wait()
