"""Read pickles without unpickling: their opcodes are interpreted one by one, and nothing is imported or called.

The result is made of lists, tuples, dicts with texts as keys, numbers, texts, bytes, None, numpy arrays of numbers and pictures. These are what published
poison uses. Everything else is refused, also where it would be harmless.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from poisonbench.core.errors import DataError
from poisonbench.pickled import BUILT, BYTES, KNOWN, MADE, Blank, Name, Refused

OPCODES, DEPTH = 2_000_000, 16  # limits of a stream: opcodes, nested containers


class _Mark:
    """The place on the stack that MARK leaves."""


@dataclass
class _Item:
    """A value on the stack, and how many containers are nested in it."""

    value: object
    depth: int = 0


def read(content: bytes, name: object) -> object:
    """Return what a pickle contains.

    Args:
        content: bytes of a file.
        name: what error messages call it.

    Raises:
        DataError: anything but plain values, arrays of numbers and pictures, a limit that is exceeded, or a damaged stream.
    """
    place = 0
    try:
        if len(content) > BYTES:
            raise Refused(f"has {len(content):,} bytes; at most {BYTES:,} are read")
        machine = _Machine()
        for count, (opcode, argument, at) in enumerate(pickletools.genops(content)):
            place = at or 0
            if count >= OPCODES:
                raise Refused(f"has more than {OPCODES:,} opcodes")
            if (step := STEPS.get(opcode.name)) is None:
                raise Refused(f"uses the opcode {opcode.name}, which is not read")
            step(machine, argument)
        return machine.result()
    except Refused as error:
        raise DataError(f"{name} {error} (at byte {place}); only lists, tuples, dicts, numbers, texts, bytes, arrays and pictures are read") from error
    except MemoryError as error:
        raise DataError(f"{name} needs more memory than is free (at byte {place}); close other programs, or use a smaller file") from error
    except Exception as error:  # of `pickletools`, about bytes that are no opcodes or that end early
        raise DataError(f"{name} is not a complete pickle (after byte {place}: {error}); fetch it again") from error


@dataclass
class _Machine:
    """The stack and the memo of the pickle machine, without anything that could call or import."""

    stack: list[_Item] = field(default_factory=list)
    memo: dict[int, _Item] = field(default_factory=dict)
    built: int = 0

    def push(self, value: object, depth: int = 0) -> None:
        """Put a value on the stack.

        Raises:
            Refused: too many nested containers.
        """
        if depth > DEPTH:
            raise Refused(f"nests more than {DEPTH} containers")
        self.stack.append(_Item(value, depth))

    def count(self, value: object) -> object:
        """Return a value that was made from others, after its bytes are counted: a stream could make many from one text.

        Raises:
            Refused: together they are too many.
        """
        self.built += len(value) if isinstance(value, bytes) else 0
        if self.built > BYTES:
            raise Refused(f"makes more than {BYTES:,} bytes from its texts and bytes")
        return value

    def pop(self) -> _Item:
        """Take the last value.

        Raises:
            Refused: there is none.
        """
        if not self.stack or isinstance(self.stack[-1].value, _Mark):
            raise Refused("takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> _Item:
        """Return the last value, which stays.

        Raises:
            Refused: there is none.
        """
        item = self.pop()
        self.stack.append(item)
        return item

    def since_mark(self) -> list[_Item]:
        """Take all values since the last mark, and the mark.

        Raises:
            Refused: there is no mark.
        """
        place = next((place for place in reversed(range(len(self.stack))) if isinstance(self.stack[place].value, _Mark)), None)
        if place is None:
            raise Refused("ends a container that it did not begin")
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def tuple_of(self, items: list[_Item]) -> None:
        """Put a tuple on the stack."""
        self.push(tuple(item.value for item in items), 1 + max((item.depth for item in items), default=0))

    def append(self, items: list[_Item]) -> None:
        """Add values to the list on the stack."""
        holder = self._holder(list, items)
        assert isinstance(holder, list)
        holder.extend(item.value for item in items)

    def set_items(self, items: list[_Item]) -> None:
        """Add keys and values to the dict on the stack.

        Raises:
            Refused: a key without a value, or one that is no text.
        """
        names, values = [item.value for item in items[::2]], [item.value for item in items[1::2]]
        if len(names) != len(values) or not all(isinstance(name, str) for name in names):
            raise Refused("has a dict whose keys are not texts")
        holder = self._holder(dict, items)
        assert isinstance(holder, dict)
        holder.update(zip(names, values, strict=True))

    def _holder(self, kind: type, items: list[_Item]) -> object:
        """Return the container on the stack that gets these values."""
        holder = self.top()
        if not isinstance(holder.value, kind):
            raise Refused(f"adds values to something that is no {kind.__name__}")
        holder.depth = max([holder.depth, *(1 + item.depth for item in items)])
        if holder.depth > DEPTH:
            raise Refused(f"nests more than {DEPTH} containers")
        return holder.value

    def remember(self, number: int) -> None:
        """Keep the last value under a number."""
        self.memo[number] = self.top()

    def recall(self, number: int) -> None:
        """Put a value that was kept on the stack again.

        Raises:
            Refused: nothing was kept, or a container that could contain itself, or grow without limit, if it were in two places.
        """
        if number not in self.memo:
            raise Refused(f"recalls value {number}, which it did not keep")
        value, depth = self.memo[number].value, self.memo[number].depth
        if isinstance(value, list | dict | _Mark) or depth > 1 or (isinstance(value, Blank) and value.what != "dtype"):
            raise Refused("uses one container in two places")
        self.push(value, depth)

    def name(self, module: object, name: object) -> None:
        """Put a known name on the stack.

        Raises:
            Refused: any other name.
        """
        what = KNOWN.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if what is None:
            raise Refused(f"names {str(module)[:80]}.{str(name)[:80]}, which is not allowed")
        self.push(Name(what))

    def reduce(self) -> None:
        """Replace a known name and its arguments by their value; nothing is called.

        Raises:
            Refused: another name, or arguments that do not fit.
        """
        arguments, callee = self.pop().value, self.pop().value
        value = MADE[callee.what](arguments) if isinstance(callee, Name) and callee.what in MADE and isinstance(arguments, tuple) else None
        if value is None:
            raise Refused("calls something that is not allowed")
        self.push(self.count(value))

    def new(self) -> None:
        """Begin a picture.

        Raises:
            Refused: an object of another class.
        """
        arguments, callee = self.pop().value, self.pop().value
        if callee != Name("picture") or arguments != ():
            raise Refused("makes an object of a class that is not allowed")
        self.push(Blank("picture"))

    def build(self) -> None:
        """Complete an array, a type of numbers or a picture.

        Raises:
            Refused: another object, or a state that does not fit.
        """
        state, blank = self.pop().value, self.pop().value
        if not isinstance(blank, Blank) or blank.what not in BUILT:
            raise Refused("sets the state of an object that is not allowed")
        self.push(BUILT[blank.what](blank, state))

    def result(self) -> object:
        """Return the one value that is left.

        Raises:
            Refused: none, several, or one that was not completed, also inside of a container.
        """
        if len(self.stack) != 1 or isinstance(self.stack[0].value, _Mark | Name | Blank):
            raise Refused("does not end with one value")
        values, seen = [self.stack[0].value], set[int]()
        while values:
            value = values.pop()
            if isinstance(value, _Mark | Name | Blank):
                raise Refused("has a name or an array without content as a value")
            if isinstance(value, list | tuple | dict) and id(value) not in seen:  # a flat tuple may be in many places
                seen.add(id(value))
                values.extend(value.values() if isinstance(value, dict) else value)
        return self.stack[0].value


def _proto(machine: _Machine, protocol: object) -> None:
    if protocol not in (2, 3, 4, 5):
        raise Refused(f"has protocol {protocol}; protocols 2 to 5 are read")


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop().value, machine.pop().value
    machine.name(module, name)


def _last(machine: _Machine, count: int) -> list[_Item]:
    return [machine.pop() for _ in range(count)][::-1]


Step: TypeAlias = Callable[[_Machine, object], None]
STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "PROTO": _proto,
        "FRAME": lambda machine, size: None,
        "STOP": lambda machine, nothing: None,
        "MARK": lambda machine, nothing: machine.push(_Mark()),
        "NONE": lambda machine, nothing: machine.push(None),
        "NEWTRUE": lambda machine, nothing: machine.push(True),
        "NEWFALSE": lambda machine, nothing: machine.push(False),
        **dict.fromkeys(
            (
                *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
                *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
            ),
            lambda machine, value: machine.push(value),
        ),
        "BYTEARRAY8": lambda machine, value: machine.push(machine.count(bytes(value))),  # type: ignore[call-overload]  # a bytearray
        "EMPTY_LIST": lambda machine, nothing: machine.push([], 1),
        "EMPTY_DICT": lambda machine, nothing: machine.push({}, 1),
        "EMPTY_TUPLE": lambda machine, nothing: machine.push((), 1),
        "APPEND": lambda machine, nothing: machine.append(_last(machine, 1)),
        "APPENDS": lambda machine, nothing: machine.append(machine.since_mark()),
        "SETITEM": lambda machine, nothing: machine.set_items(_last(machine, 2)),
        "SETITEMS": lambda machine, nothing: machine.set_items(machine.since_mark()),
        "TUPLE": lambda machine, nothing: machine.tuple_of(machine.since_mark()),
        "TUPLE1": lambda machine, nothing: machine.tuple_of(_last(machine, 1)),
        "TUPLE2": lambda machine, nothing: machine.tuple_of(_last(machine, 2)),
        "TUPLE3": lambda machine, nothing: machine.tuple_of(_last(machine, 3)),
        "MEMOIZE": lambda machine, nothing: machine.remember(len(machine.memo)),
        "BINPUT": lambda machine, number: machine.remember(_whole(number)),
        "LONG_BINPUT": lambda machine, number: machine.remember(_whole(number)),
        "BINGET": lambda machine, number: machine.recall(_whole(number)),
        "LONG_BINGET": lambda machine, number: machine.recall(_whole(number)),
        "GLOBAL": lambda machine, path: machine.name(*str(path).split(" ", 1)),
        "STACK_GLOBAL": lambda machine, nothing: _stack_global(machine),
        "REDUCE": lambda machine, nothing: machine.reduce(),
        "NEWOBJ": lambda machine, nothing: machine.new(),
        "BUILD": lambda machine, nothing: machine.build(),
    }
)


def _whole(number: object) -> int:
    assert isinstance(number, int)
    return number
