"""How bytes of ours travel and rest: safetensors envelopes, checked on arrival. No pickle anywhere."""

from accel.wire.envelope import Envelope, EnvelopeError, pack_texts, unpack_texts

__all__ = ["Envelope", "EnvelopeError", "pack_texts", "unpack_texts"]
