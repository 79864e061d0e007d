"""Networks that nelbo trains, by name. Each is told the log-SNR and says one value or K logits an element."""

from nelbo.nets.build import NETS, build

__all__ = ["NETS", "build"]
