"""Networks that nelbo trains, by name. Those of images take z and the log-SNR, and return a value or K logits an
element; those of symbols take z, and a time where they are told one, and return the logits of every place."""

from nelbo.nets.build import NETS, TOKEN_NETS, build, build_for_tokens

__all__ = ["NETS", "TOKEN_NETS", "build", "build_for_tokens"]
