"""Names of everything the bus keeps in Redis, and how entry ids compare."""

from esper_async.leyline.v1.enums_pb2 import MESSAGE_PRIORITY_CRITICAL, MessagePriority

EPOCH_KEY = "esper:epoch"
DEAD_LETTERS = "esper:dead_letters"
FORGED_LETTERS = "esper:dead_letters:forged"
"""What nobody here can believe lies apart: anybody may send such, in any number."""
LETTER_STREAMS = {"unhandled": DEAD_LETTERS, "forged": FORGED_LETTERS}
WIRE_FIELD = b"e"

EntryId = tuple[int, int]


def normal_lane(topic: str) -> str:
    """Return the stream of a topic's ordinary messages."""
    return f"esper:topic:{topic}"


def emergency_lane(topic: str) -> str:
    """Return the stream of a topic's critical messages; it is always read first."""
    return f"esper:topic:{topic}:emergency"


def lanes(topic: str) -> tuple[str, str]:
    """Return both streams of a topic, the emergency lane first."""
    return emergency_lane(topic), normal_lane(topic)


def lane_for(topic: str, priority: MessagePriority.ValueType) -> str:
    """Return the stream that a message of this priority rides."""
    critical = priority == MESSAGE_PRIORITY_CRITICAL
    return emergency_lane(topic) if critical else normal_lane(topic)


def sweeper_key(topic: str, group: str) -> str:
    """Return the key under which one consumer of a group looks for dead ones."""
    return f"esper:sweeper:{topic}:{group}"


def attempts_key(topic: str, group: str) -> str:
    """Return the hash that counts handlings of redelivered entries which got no answer."""
    return f"esper:attempts:{topic}:{group}"


def parse_id(entry_id: bytes | str) -> EntryId:
    """Return an entry id as something that compares in stream order."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, serial = text.partition("-")
    return int(milliseconds), int(serial or 0)


def format_id(entry_id: EntryId) -> str:
    """Return an entry id as Redis writes it."""
    return f"{entry_id[0]}-{entry_id[1]}"


def after(entry_id: EntryId) -> EntryId:
    """Return the smallest id above this one."""
    return entry_id[0], entry_id[1] + 1
