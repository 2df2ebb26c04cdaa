"""Targets as data: what LLVM is told, what a CPU or GPU must offer, and how wide its vectors are. A new machine is a new record."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from difflib import get_close_matches

from qcc.errors import UnknownTarget


@dataclass(frozen=True, slots=True)
class Target:
    """One machine to compile for.

    Attributes:
        name: what the user types.
        triple: LLVM's target triple.
        attributes: LLVM's feature flags, for example "+avx512vnni".
        features: names as in /proc/cpuinfo that the CPU must have; checked before the library runs.
        lanes: 32-bit lanes of a vector register.
        registers: vector registers that the kernels may use.
        dot: the dot-product intrinsic (key of the intrinsic tables in codegen): "vnni512", "vnni256" or "madd256" on x86, "smmla",
            "sdot" or "neon" on ARM, "mma" on GPUs.
        sms: of a GPU, the compute capabilities (times ten) that get machine code, ascending; empty for a CPU. The other fields but
            `name` and `dot` describe the host code then.
        variants: names of the targets, best first, whose kernels are all in the library; it takes those that the CPU can run. The other
            fields are those of the last of them, but for `name`.
        core: the CPU core that code is arranged for: its figures choose the tiles (key of codegen/arm/tiles.CORES), and LLVM is told of it
            (CORES); empty where there is but one table.
    """

    name: str
    triple: str
    attributes: tuple[str, ...]
    features: tuple[str, ...]
    lanes: int
    registers: int
    dot: str
    sms: tuple[int, ...] = ()
    core: str = ""
    variants: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Target, ...]:
        """The targets that kernels are compiled for: the variants, or the target itself."""
        return tuple(TARGETS[name] for name in self.variants) or (self,)

    @property
    def flags(self) -> tuple[str, ...]:
        """Of LLVM: the instructions that code may use, and how the core wants it."""
        return (*self.attributes, *CORES.get(self.core, ()))

    @property
    def is_gpu(self) -> bool:
        return bool(self.sms)

    def serves(self, sm: int) -> bool:
        """Whether a library for this target has code for a GPU of that compute capability (times ten): machine code, or PTX."""
        return any(sm >= known and (sm // 10 == known // 10 or known == self.sms[-1]) for known in self.sms)

    @property
    def kernels(self) -> str:
        """The table of kernel families: "cuda", or the CPU's architecture."""
        return "cuda" if self.is_gpu else self.architecture

    @property
    def architecture(self) -> str:
        """The machine as `uname -m` names it."""
        return self.triple.partition("-")[0]


_AVX2 = ("+avx2", "+fma", "+f16c", "+bmi", "+bmi2", "+lzcnt", "+popcnt")
_AVX512 = (*_AVX2, "+avx512f", "+avx512bw", "+avx512dq", "+avx512vl", "+avx512vnni")
_LINUX = "x86_64-unknown-linux-gnu"
_ARM_LINUX = "aarch64-unknown-linux-gnu"
_DOTPROD = ("+neon", "+dotprod")
# What LLVM is told of cores of 64-bit ARM beside their instructions. By its models of these cores a loop of products takes 5 to 8 % less
# cycles where two vectors are loaded by two instructions; on the others it makes no difference, and fewer instructions are better.
_LOADS_APART = ("+slow-paired-128",)
CORES = {
    "cortex-a55": _LOADS_APART, "cortex-a72": _LOADS_APART, "cortex-a76": _LOADS_APART,
    "neoverse-n1": (), "neoverse-v1": (), "cortex-a510": (), "neoverse-n2": (),
}

TARGETS = {
    target.name: target
    for target in (
        Target(
            "x86-64-avx512vnni",
            _LINUX,
            _AVX512,
            ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "popcnt", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
            16,
            32,
            "vnni512",
        ),
        Target(
            "x86-64-avxvnni",
            _LINUX,
            (*_AVX2, "+avxvnni"),
            ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "popcnt", "avx_vnni"),
            8,
            16,
            "vnni256",
        ),
        Target("x86-64-avx2", _LINUX, _AVX2, ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "popcnt"), 8, 16, "madd256"),
        Target("aarch64-i8mm", _ARM_LINUX, (*_DOTPROD, "+i8mm"), ("asimd", "asimddp", "i8mm"), 4, 32, "smmla", core="neoverse-v1"),
        Target("aarch64-dotprod", _ARM_LINUX, _DOTPROD, ("asimd", "asimddp"), 4, 32, "sdot", core="cortex-a76"),
        Target("aarch64-neon", _ARM_LINUX, ("+neon",), ("asimd",), 4, 32, "neon", core="cortex-a72"),
    )
}
_SMS = (75, 80, 86, 89, 90)


def _gpu(name: str, sms: tuple[int, ...]) -> Target:
    """Machine code for each of the compute capabilities, and PTX of the highest for later ones; host code for any x86-64 machine."""
    return Target(name, _LINUX, (), (), 32, 255, "mma", sms)


GPU_TARGETS = {target.name: target for target in (_gpu("cuda", _SMS), *(_gpu(f"cuda:sm_{sm}", (sm,)) for sm in _SMS))}


def _fat(name: str, *variants: str) -> Target:
    return replace(TARGETS[variants[-1]], name=name, variants=variants)


FAT_TARGETS = {
    target.name: target
    for target in (
        _fat("x86-64", "x86-64-avx512vnni", "x86-64-avxvnni", "x86-64-avx2"),
        _fat("aarch64", "aarch64-i8mm", "aarch64-dotprod", "aarch64-neon"),
    )
}
ALIASES = {"x86": "x86-64-avx512vnni", "arm": "aarch64-dotprod"}


def host_features() -> frozenset[str]:
    """The features of this machine's CPU, as the kernel reports them."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def find_target(name: str) -> Target:
    """The target of this name; "host" is the first in the table of CPUs that this machine can run.

    A target for ARM may name the core after a colon, "aarch64-dotprod:cortex-a55": the same instructions in tiles made for it.

    Raises:
        UnknownTarget: no such name, or no target fits this machine.
    """
    family, _, core = name.partition(":")
    family = ALIASES.get(family, family)
    if core and family in TARGETS and TARGETS[family].core:
        if core not in CORES:
            raise UnknownTarget(f"target {name!r}: the core {core!r} is unknown; expected one of {', '.join(CORES)}, or no core")
        return replace(TARGETS[family], name=f"{family}:{core}", core=core)
    if name == "host":
        features, machine = host_features(), platform.machine()
        fitting = [t for t in TARGETS.values() if t.architecture == machine and features.issuperset(t.features)]
        if not fitting:
            raise UnknownTarget("target 'host': this machine's CPU runs none of " + ", ".join(TARGETS) + "; name a target to cross-compile")
        return fitting[0]
    name = ALIASES.get(name, name)
    known = TARGETS | FAT_TARGETS | GPU_TARGETS
    if name not in known:
        near = get_close_matches(name, [*known, *ALIASES, "host"], 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownTarget(f"target {name!r} is unknown: expected host, {', '.join([*ALIASES, *known])}{hint}")
    return known[name]
