"""QLoRA: LoRA on a base whose linear weights, `lm_head` apart, are kept in 4-bit NF4."""

from ila_core.train.methods.lora import Lora


class QLora(Lora):
    """What is trained and saved is LoRA's; `ila_core.models.loading` quantises the base."""

    version = 5
    four_bit = True
    experts = False
