"""Which number format training runs in: what was asked for, what the device can do, and what was really in force."""

import torch
from torch import nn

from glassbox.errors import GlassboxError

FORMATS = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}

# bf16 over float32, processor time of a step of two Llama layers on a CPU with avx512_bf16, one thread: 0.99 at
# width 96, 0.97 at 128, 0.73 at 192, 0.66 at 256, 0.58 at 512, 0.52 at 1024. Clearly faster in every round from here:
NARROWEST_IN_BF16_ON_A_CPU = 256


def resolve(asked: str, has_cuda: bool, cuda_has_bf16: bool, cpu_has_bf16: bool = False, width: int = 0) -> str:
    """The precision to ask Accelerate for; `width` is the student's. Raises GlassboxError for fp16 without CUDA."""
    if asked == "fp16" and not has_cuda:
        raise GlassboxError(
            "train.precision is fp16, which needs a CUDA device, and this machine has none. Use "
            "`-S train.precision=bf16` (runs on a CPU), `no`, or `auto`, which takes the best the device has."
        )
    if asked == "auto":
        pays = cpu_has_bf16 and width >= NARROWEST_IN_BF16_ON_A_CPU
        fastest_on_cuda, fastest_on_cpu = "bf16" if cuda_has_bf16 else "fp16", "bf16" if pays else "no"
        return fastest_on_cuda if has_cuda else fastest_on_cpu
    return asked


def cuda_has_bf16() -> bool:
    """Whether there is a GPU that computes in bfloat16 itself; emulation, which is slow, does not count."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 itself."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


class PrecisionProbe:
    """Watches the first linear layer of a model and remembers the format its output really had."""

    def __init__(self, model: nn.Module) -> None:
        self.observed: str | None = None
        linear = next(module for module in model.modules() if type(module).__name__ in ("Linear", "Conv1D"))
        self._hook = linear.register_forward_hook(self._observe)

    def _observe(self, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        self.observed = FORMATS.get(output.dtype, str(output.dtype))
        self._hook.remove()

    def require(self, expected: str) -> str:
        """The format in force; GlassboxError where it is not the one that was asked for."""
        if self.observed != expected:
            raise GlassboxError(
                f"Mixed precision is not in force: '{expected}' was asked for, but the student computes in "
                f"'{self.observed}'. Check train.precision and student.dtype (float32 keeps full-precision weights)."
            )
        return expected
