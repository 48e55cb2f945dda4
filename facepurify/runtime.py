"""One ONNX Runtime session: providers, threads, and survival of a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelContractError, ModelOutputError, OptionError, ProviderError
from .extras import import_onnxruntime
from .images import Array

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["CPU", "MAX_THREADS", "Session", "providers_of"]

CPU = "CPUExecutionProvider"
"""ONNX Runtime's execution provider for the CPU, which is always there."""

MAX_THREADS = 1024
"""Of one session: no processor has more, and each costs a stack."""

# Where a provider keeps its tensors, as ONNX Runtime names it; others take numpy arrays.
_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}

# Sessions of a parent process: their threads do not exist here, so tearing them down would hang.
_INHERITED: list[onnxruntime.InferenceSession] = []


class Session:
    """An ONNX Runtime session over verified bytes.

    Any number of threads may share one. A process forked from the one that opened it opens its
    own on first use. (Such a child should end by ``os._exit``, as those of ``multiprocessing``
    do: importing ONNX Runtime 1.31 is enough to make its exit handler wait for a thread that a
    fork does not copy.)

    Args:
        content: The bytes of the model.
        providers: Names of execution providers in order of preference; None for the CPU.
        threads: Threads within an operator; None for ONNX Runtime's default.

    Raises:
        OptionError: ``providers`` or ``threads`` of another type or value.
        ProviderError: A provider that is not installed or did not start.
        ModelContractError: ONNX Runtime refuses the model.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        content: bytes,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.providers = providers_of(providers)
        if threads is not None and (
            isinstance(threads, bool)
            or not isinstance(threads, int | np.integer)
            or not 1 <= threads <= MAX_THREADS
        ):
            raise OptionError(
                f"expected threads >= 1 and at most {MAX_THREADS}, or None, got {threads!r}"
            )
        self.threads = threads
        self._content = content
        self._opened = (os.getpid(), self._open())

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run the model.

        Args:
            outputs: Names of the outputs to return.
            feeds: Inputs by name.

        Returns:
            The outputs, in order.

        Raises:
            ModelOutputError: The model failed on this input.
        """
        process, session = self._opened
        if process != os.getpid():
            _INHERITED.append(session)
            session = self._open()
            self._opened = (os.getpid(), session)
        device = _DEVICES.get(self.providers[0])
        try:
            if device is not None:
                return _run_on(device, session, outputs, feeds)
            results: list[Array] = session.run(list(outputs), dict(feeds))
        except Exception as error:  # ONNX Runtime raises classes of its own, without a base
            raise ModelOutputError(f"the model failed: {error}") from error
        return results

    def _open(self) -> onnxruntime.InferenceSession:
        ort = import_onnxruntime()
        available = ort.get_available_providers()
        missing = [name for name in self.providers if name not in available]
        if missing:
            raise ProviderError(
                f"expected providers among {', '.join(available)}, got {', '.join(missing)}; "
                "install the ONNX Runtime that has them, or leave providers=None for the CPU"
            )
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what matters comes as an exception
        options.enable_cpu_mem_arena = False  # bounded memory; measured, it costs no time
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if self.threads is not None:
            options.intra_op_num_threads = int(self.threads)

        def start(providers: list[str]) -> onnxruntime.InferenceSession:
            return ort.InferenceSession(
                self._content, options, providers=providers, enable_fallback=0
            )

        try:
            session = start(self.providers)
        except Exception as error:  # as above
            if self.providers != [CPU] and _works(lambda: start([CPU])):
                raise ProviderError(
                    f"expected {', '.join(self.providers)} to start, got {error}; "
                    "see `python -m facepurify doctor`, or leave providers=None for the CPU"
                ) from error
            raise ModelContractError(f"ONNX Runtime refuses the model: {error}") from error
        session.disable_fallback()
        # ONNX Runtime drops a provider that does not start (a missing CUDA library) and goes on.
        lost = [name for name in self.providers if name not in session.get_providers()]
        if lost:
            raise ProviderError(
                f"expected {', '.join(lost)} to start, got {', '.join(session.get_providers())}; "
                "see `python -m facepurify doctor`, or leave providers=None for the CPU"
            )
        return session


def providers_of(providers: Sequence[str] | None) -> list[str]:
    """Return the execution providers that were asked for: the CPU where None was.

    Raises:
        OptionError: No list of names.
    """
    if providers is None:
        return [CPU]
    if not (
        isinstance(providers, Sequence)
        and not isinstance(providers, str)
        and providers
        and all(isinstance(name, str) for name in providers)
    ):
        raise OptionError(f"expected a list of provider names or None, got {providers!r}")
    return list(providers)


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:  # as above
        return False
    return True


def _run_on(
    device: str,
    session: onnxruntime.InferenceSession,
    outputs: Sequence[str],
    feeds: Mapping[str, Array],
) -> list[Array]:
    """Run with every tensor on a device: one copy there for each input, one back for each output.

    Without a binding, ONNX Runtime leaves inputs and outputs on the CPU and may copy them at
    each place in the graph that uses them.
    """
    from onnxruntime import OrtValue

    binding = session.io_binding()
    for name, value in feeds.items():
        there = OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), device, 0)
        binding.bind_ortvalue_input(name, there)
    for name in outputs:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    results: list[Array] = binding.copy_outputs_to_cpu()
    return results
