"""Pictures are drawn in batches that memory holds, and are the same whichever others are drawn beside them."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from everstep.config.schema import Config
from everstep.errors import UserError
from everstep.evaluation.loading import open_base
from everstep.evaluation.pictures.draw import OUT_OF_MEMORY, Shown, Together, draw, is_out_of_memory, paint

SAMPLING = Config().sampling.model_copy(update={"steps": 2})


@pytest.fixture(scope="module")
def family(tiny_base):
    return open_base(Config(base=str(tiny_base)))


@pytest.fixture
def shown():
    draws = np.random.default_rng(0)
    return [Shown(draws.integers(0, 256, (16, 16, 3)).astype(np.uint8), "red circle") for _ in range(11)]


class Small:
    """A device that holds so many pictures at once: the real pipeline behind it draws what fits."""

    def __init__(self, family, most, error=None):
        self.family, self.most, self.tried = family, most, []
        self.error = (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.") if error is None else error
        )

    def __getattr__(self, name):
        return getattr(self.family, name)

    def pipeline(self, controlnet, scheduler):
        pipeline = self.family.pipeline(controlnet, scheduler)

        def drawing(**asked):
            self.tried.append(len(asked["prompt"]))
            if len(asked["prompt"]) > self.most:
                raise self.error
            return pipeline(**asked)

        return drawing


@pytest.mark.fault("memory that does not hold as many pictures as are drawn at once")
@pytest.mark.parametrize(
    "error",
    [
        None,
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_memory_does_not_hold_is_drawn_in_halves_and_the_size_is_remembered(family, shown, error):
    controlnet, together = family.new_controlnet(0), Together()
    device = Small(family, 3, error)
    found = draw(device, controlnet, shown, SAMPLING, together)
    assert device.tried == [8, 4, 2, 2, 2, 2, 2, 1]
    device.tried.clear()
    again = draw(device, controlnet, shown, SAMPLING, together)
    assert device.tried == [2, 2, 2, 2, 2, 1]
    assert all(np.array_equal(*both) for both in zip(found, again, strict=True))
    by_two = draw(family, controlnet, shown, SAMPLING, Together(2))
    assert all(np.array_equal(*both) for both in zip(found, by_two, strict=True))


def test_a_batch_that_is_not_full_is_halved_all_the_same(family, shown):
    device = Small(family, 2)
    assert len(draw(device, family.new_controlnet(0), shown[:5], SAMPLING)) == 5
    assert device.tried == [5, 2, 2, 1]


def test_where_not_even_one_fits_it_is_said_and_other_errors_are_not_swallowed(family, shown):
    controlnet = family.new_controlnet(0).train()
    with pytest.raises(UserError, match=r"not hold the drawing of one picture \(CUDA out of memory\. Tried"):
        draw(Small(family, 0), controlnet, shown, SAMPLING)
    assert controlnet.training
    other = Small(family, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        draw(other, controlnet, shown, SAMPLING)
    assert other.tried == [8]


def test_only_errors_of_memory_are_taken_for_such():
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's, seen under a limit of memory
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("expected scalar type Half but found Float"))


def test_the_noise_of_a_picture_depends_on_its_place_alone(family, shown):
    controlnet = family.new_controlnet(0)
    together = np.stack(paint(family, controlnet, shown, SAMPLING))
    alone = np.stack(paint(family, controlnet, shown[8:], SAMPLING, place=8))
    assert np.array_equal(alone, together[8:])
    elsewhere = np.stack(paint(family, controlnet, shown[8:], SAMPLING, place=9))
    assert np.abs(elsewhere - together[8:]).max() > 0.01


CRAMPED = """
import resource, sys
import numpy as np
from everstep.config.schema import Config
from everstep.errors import UserError
from everstep.evaluation.loading import open_base
from everstep.evaluation.pictures.draw import Shown, Together, draw

pages = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
config = Config(compute={"threads": 1})
sampling = config.sampling.model_copy(update={"steps": 1})
family = open_base(config)
controlnet = family.new_controlnet(0)
draws = np.random.default_rng(0)
side = int(sys.argv[2])
shown = [Shown(draws.integers(0, 256, (side, side, 3)).astype(np.uint8), "red circle") for _ in range(8)]
draw(family, controlnet, [Shown(shown[0].condition_HWC[:256, :256], "red circle")], sampling)
whole = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages() + (int(sys.argv[1]) << 20), whole[1]))
together = Together()
try:
    found = draw(family, controlnet, shown, sampling, together)
except UserError as error:
    sys.exit(str(error))
resource.setrlimit(resource.RLIMIT_AS, whole)
again = draw(family, controlnet, shown, sampling, Together(together.size))
print(together.size, all(np.array_equal(*both) for both in zip(found, again)))
"""


def cramped(room_mib, side_px=256):
    """Draw eight pictures in a process that may take so much more memory than one of 256 px took, which it keeps."""
    words = [sys.executable, "-c", CRAMPED, str(room_mib), str(side_px)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.fault("memory that does not hold as many pictures as are drawn at once")
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")
def test_a_process_that_really_runs_out_of_memory_draws_fewer_at_once_or_says_why_not():
    ended = cramped(160)
    assert ended.returncode == 0, ended.stderr
    size, is_same = ended.stdout.split()
    assert int(size) in (1, 2, 4)
    assert is_same == "True"
    ended = cramped(8, side_px=512)
    assert ended.returncode == 1
    assert "Memory does not hold the drawing of one picture" in ended.stderr
    assert any(words in ended.stderr for words in OUT_OF_MEMORY)  # who ran out first is chance
