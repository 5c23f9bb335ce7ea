"""How the processes of one run share its work. Imports no torch, because launchers use it."""

from typing import Literal

from pydantic import Field, model_validator

from experiments.plan.profile import TrainingSettings
from experiments.plan.spec import RunSpec
from experiments.settings import ConfigError, Keys, Settings


class Parallel(Settings):
    """The processes of a run, and how they split its model and its batches.

    These settings change the speed of a run, but its result only by the rounding of sums.
    """

    nodes: int = Field(default=1, gt=0, description="number of machines")
    tasks_per_node: int = Field(
        default=1, gt=0, description="processes per node; each trains on one GPU, or on its CPUs"
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="each process holds the whole model (ddp), or a shard (FSDP2)"
    )
    tensor_parallel: int = Field(
        default=1, gt=0, description="processes of a node that split each matrix; needs fsdp"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "Parallel":
        if self.tasks_per_node % self.tensor_parallel:
            raise ConfigError(
                ("tensor_parallel",),
                f"is {self.tensor_parallel}, but it must divide tasks_per_node,"
                f" {self.tasks_per_node}",
            )
        if self.tensor_parallel > 1 and self.strategy != "fsdp":
            raise ConfigError(
                ("tensor_parallel",),
                f"is {self.tensor_parallel}, but with strategy {self.strategy} it"
                " must be 1: it needs fsdp",
            )
        return self

    @property
    def processes(self) -> int:
        """Number of processes that train the run."""
        return self.nodes * self.tasks_per_node

    @property
    def data_parallel(self) -> int:
        """Number of parts into which a batch is split."""
        return self.processes // self.tensor_parallel

    def part(self, batch_size: int, rank: int) -> slice:
        """Return the sequences of a batch that a process trains on."""
        size = batch_size // self.data_parallel
        first = rank // self.tensor_parallel * size
        return slice(first, first + size)

    def micro_batch_size(self, training: TrainingSettings) -> int:
        """Return the number of sequences in one forward pass of one process."""
        part = training.batch_size // self.data_parallel
        return min(training.micro_batch_size or part, part)

    def check(self, spec: RunSpec, where: Keys) -> None:
        """Check that the processes can share a run.

        Args:
            spec: the run.
            where: the field of these settings, for the message.

        Raises:
            ConfigError: its optimizer needs one process, its batch cannot be split evenly, or its
                model cannot be split by tensor parallelism.
        """
        if spec.optimizer.closure and self.processes > 1:
            raise ConfigError(
                where,
                f": a run has {self.processes} processes, but it must have one: the closure that"
                f" {spec.optimizer.name} needs is computed by one process",
            )
        training = spec.training
        size, parts = training.batch_size, self.data_parallel
        if size % parts:
            raise ConfigError(
                where,
                f": a batch of {spec.model_name} is split over {parts} processes, but their number"
                f" must divide training.batch_size, {size}",
            )
        if size // parts % self.micro_batch_size(training):
            raise ConfigError(
                where,
                f": each of {parts} processes trains on {size // parts} sequences of a batch of"
                f" {spec.model_name}, but that must be a multiple of training.micro_batch_size,"
                f" {training.micro_batch_size}",
            )
        if self.tensor_parallel == 1:
            return
        sizes = spec.model.tensor_parallel_sizes
        if not sizes:
            raise ConfigError(
                (*where, "tensor_parallel"),
                f"is {self.tensor_parallel}, but for {spec.model_name} it must be 1: only dense"
                " Qwen3 models can be split so",
            )
        for name, size in sizes.items():
            if size % self.tensor_parallel:
                raise ConfigError(
                    (*where, "tensor_parallel"),
                    f"is {self.tensor_parallel}, but it must divide the {name} of"
                    f" {spec.model_name}, {size}",
                )


ALONE = Parallel()  # one process on one machine
