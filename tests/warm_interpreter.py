"""The program of ``interpreters.py``: it imports what the tests' programs import, then forks one for each request.

A child falls out of the loop and runs its program at the module's level, as ``__main__``, and ends as Python ends. It
has its request's arguments, directory, environment, warnings and files; nothing of ours is left in it but the modules.
"""

import gc
import io
import json
import os
import socket
import sys
import time
import warnings

_MODULES = (
    *("prefiq_db", "prefiq_db.migrate.command_line", "prefiq_db.bootstrap", "alembic.command", "alembic.config"),
    *("psycopg", "pymysql", "asyncmy", "aiosqlite", "sqlalchemy.ext.asyncio", "yaml"),
)


def _serve():
    """Fork a child for each request, and return its program in the child; exit when nobody is left who asks."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    before = list(warnings.filters)
    warnings.simplefilter("error")
    ours = warnings.filters[0]
    for name in _MODULES:
        # A driver may not be installed; a program that needs it will say so.
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if error.name not in _MODULES:
                raise
    # The collector of a child, also at its end, passes over what is imported: it would copy all of that memory.
    gc.collect()
    gc.freeze()
    added = [each for each in warnings.filters if each not in before and each is not ours]
    while True:
        try:
            head, fds, _, _ = socket.recv_fds(channel, 4, 3)
        except KeyboardInterrupt:
            head = b""
        if not head:
            os._exit(0)
        size, body = int.from_bytes(head, "big"), b""
        while len(body) < size:
            body += channel.recv(size - len(body))
        pid = _fork_twice(channel)
        if pid == 0:
            channel.close()
            return _become(json.loads(body), fds, before, added)
        for fd in fds:
            os.close(fd)
        channel.sendall(pid.to_bytes(4, "big"))


def _fork_twice(channel):
    """Return the grandchild's process id, and 0 in it: as an orphan it becomes a child of the one who asks."""
    readable, writable = os.pipe()
    middle = os.fork()
    if middle:
        os.close(writable)
        pid = int.from_bytes(os.read(readable, 4), "big")
        os.close(readable)
        os.waitpid(middle, 0)
        return pid
    middle = os.getpid()
    pid = os.fork()
    if pid:
        os.write(writable, pid.to_bytes(4, "big"))
        os._exit(0)
    os.close(readable)
    os.close(writable)
    while os.getppid() == middle:
        time.sleep(0.0005)
    return 0


def _become(request, fds, before, added):
    """Make this process what ``python <options> <program> <arguments>`` is; return the program's code."""
    kind, program, arguments, options = (request[name] for name in ("kind", "program", "arguments", "options"))
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdin.reconfigure(write_through=True)
        for number, name in ((1, "stdout"), (2, "stderr")):
            old = getattr(sys, name)
            raw = io.FileIO(number, "wb", closefd=False)
            new = io.TextIOWrapper(raw, old.encoding, old.errors, newline="\n", write_through=True)
            new.mode = "w"
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
    sys.orig_argv = request["command"]
    sys.warnoptions[:] = options
    warnings.filters[:] = before
    warnings._processoptions(options)
    warnings.filters[:0] = added
    warnings._filters_mutated()
    main = sys.modules["__main__"].__dict__
    kept = {"__name__": "__main__", "__builtins__": main["__builtins__"], "__doc__": None, "__spec__": None}
    kept |= {"__package__": None}
    if kind == "module":
        sys.argv[:] = ["-m", *arguments]
        sys.path[0] = os.getcwd()
        text = f"__import__('runpy')._run_module_as_main({program!r})"
        code = compile(text, "<python -m>", "exec", dont_inherit=True)
    elif kind == "text":
        sys.argv[:] = ["-c", *arguments]
        sys.path[0] = ""
        code = compile(program, "<string>", "exec", dont_inherit=True)
    else:
        sys.argv[:] = [program, *arguments]
        sys.path[0] = os.path.dirname(os.path.realpath(program))
        kept["__file__"] = program
        with open(program, "rb") as file:
            code = compile(file.read(), program, "exec", dont_inherit=True)
    main.clear()
    main.update(kept)
    return code


exec(_serve(), globals())
