"""Frames over ZeroMQ, version 1: the numbers and words both ends share.

Three parts `[topic, header, payload]`: topic `line/camera`; header JSON; payload an encoded image
or raw pixels. The reliable transport puts an envelope before them, and sends envelopes alone.
Imports nothing, so that camera programs stay small.
"""

from typing import Literal

VERSION = 1

MAX_TOPIC_BYTES = 1024
MAX_HEADER_BYTES = 4096
MAX_NAME_CHARS = 64  # camera, category
MAX_ID_CHARS = 128  # part_id, lot, trigger_id
MAX_EPOCH = 2**53 - 1  # what every JSON reader keeps exact
MAX_SEQ = 2**40  # 34 years at 1,000 frames a second; sums of gaps stay within 64 bits
MAX_TS_NS = 2**63 - 1

MAX_ENVELOPE_BYTES = 1024  # everything that is said besides frames
NOTHING = -1  # a number below all frames' numbers
BEAT_EVERY_S = 1.0
"""How often either side says that it is there, and how far it has got."""
SILENCE_S = 5.0
"""Without a word for so long, the other side is taken to be away."""

Encoding = Literal["raw", "jpeg", "png"]
PixelFormat = Literal["Mono8", "RGB8", "BGR8", "BayerRG8"]
"""GenICam Pixel Format Naming Convention names."""
