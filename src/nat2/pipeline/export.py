"""Networks of a run to a folder of your own: the verb `nat2 export`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from nat2.deploy.deployable import load
from nat2.deploy.description import describe
from nat2.deploy.device_export import DEVICES, DeviceName, check_device, write_for_device
from nat2.deploy.export import file_sizes, write_onnx, write_program
from nat2.deploy.samples import Samples, TestImages
from nat2.deploy.targets import TargetOptions, target_named
from nat2.errors import ConfigError, RunError
from nat2.files import write_bytes, write_error, write_json
from nat2.pipeline.context import RunContext
from nat2.pipeline.prepare import prepare
from nat2.pipeline.returned import quantised, remeasure, training_images
from nat2.pipeline.stages import report_networks
from nat2.processes import ALONE
from nat2.progress import Progress
from nat2.runs.accuracy import Accuracy
from nat2.runs.config import read_config
from nat2.runs.folder import RunFolder, fingerprint_of, no_run
from nat2.runs.results import Result
from nat2.space import Arch
from nat2.validation import user_path

_STEPS_IN_INTEGERS = 200  # of fine-tuning, by default, where everything is computed in 8 bits
_COPIED = ("arch.json", "preprocessing.json", "model.safetensors")


def export(
    run: Path | str,
    networks: str | Sequence[str] = (),
    *,
    to: Path | str | None = None,
    int8: bool = False,
    int8_steps: int | None = None,
    target: str = "",
    onnxruntime_web: Path | str = "",
    quiet: bool = False,
) -> list[Path]:
    """Write the files of networks that a run has returned, and check them again on this machine.

    Args:
        run: A run folder.
        networks: Ids of its networks, or their folders; all by default.
        to: A folder that gets a folder for each; by default they are written where the run keeps them.
        int8: Make ``model-int8.onnx`` too; its ranges are learnt from the run's training images, which must still be
            where they were.
        int8_steps: Gradient steps in which the weights of ``model-int8.onnx``, and of the 8-bit file for a device,
            learn to make up for the rounding; by default 200 for a device, which computes everything in 8 bits, and
            none otherwise.
        target: Also write what a target needs, into a folder of its name: ``browser``, ``server`` or ``gpu``, or
            ``microcontroller``, ``phone``, ``executorch`` or ``coreml``, whose files are calibrated on the run's
            training images and measured on its test images.
        onnxruntime_web: Of the target ``browser``: where the npm package of that name is; downloaded by default.
        quiet: Print nothing.

    Returns:
        The folders.

    Raises:
        RunError: it is no run, has no such network, or is still running; or the files cannot be written or downloaded.
        ConfigError: there is no such target, its extra is not installed, or `to` lies inside the run.
        CheckpointError: a file is damaged.
        DataError: 8 bits or files for a device are asked for, and the images are gone.
    """
    run = user_path(run, "RUN")
    device = _device(target)
    chosen = _chosen(run, [networks] if isinstance(networks, str) else networks)
    place = run / "networks" if to is None else user_path(to, "--to")
    if to is not None and place.resolve().is_relative_to(run.resolve()):
        raise ConfigError(f"--to {place} lies inside the run; choose a folder of your own")
    options = TargetOptions(str(onnxruntime_web))
    goal = target_named(target) if target and device is None else None
    if goal is not None:
        goal.check(options)
    if int8_steps is not None:
        _check_steps(int8_steps, int8=int8, device=device)
    for result in chosen:
        describe(run / "networks" / result.id)
    with Progress(quiet=quiet) as progress, RunFolder(run, shared=to is not None) as folder:
        written = []
        context = _context(run, folder, progress) if int8 or device else None
        for result in chosen:
            quantising = context if int8 else None
            target_folder = place / result.id
            written.append(
                _write(folder, result, target_folder, quantising, device=device, images=context, steps=int8_steps)
            )
            progress.say(f"exported {written[-1]}")
            if goal is not None:
                progress.say(f"written for {goal.name}: {goal.write(written[-1], _facts(result), options)}")
        if to is None and folder.finished:
            if int8 and context is not None:
                remeasure(context, folder.results())
            report_networks(folder, folder.results())
        return written


def _chosen(run: Path, names: Sequence[str]) -> list[Result]:
    """The results of networks that are named, or of all.

    Raises:
        RunError: the run has not returned one of them.
    """
    names = [Path(name).name for name in names]  # a shell completes their folders
    results = {result.id: result for result in _returned(run)}
    unknown = [name for name in names if name not in results]
    if unknown:
        raise RunError(
            f"{run} has returned no network {', '.join(unknown)}; it has {', '.join(results)}. Others of its archive "
            "are made by nat2 finetune RUN ID"
        )
    return [results[name] for name in (names or results)]


def _check_steps(steps: int, *, int8: bool, device: str | None) -> None:
    """Check the number of steps in 8 bits.

    Raises:
        ConfigError: it is negative, or nothing that is written is trained in 8 bits.
    """
    trained = [name for name, each in DEVICES.items() if each.integers]
    if steps < 0 or (steps and not (int8 or device in trained)):
        raise ConfigError(
            f"--int8_steps must be at least 0, and belongs to --int8 or --for {', '.join(trained)}; got {steps}"
        )


def _facts(result: Result) -> dict[str, str]:
    """What people want to know of a network that they see at work."""
    tested = f"{result.tested.percent} %" + (f" of {result.test_images:,} images" if result.test_images else "")
    return {"network": result.id, "parameters": f"{result.params:,}", "test accuracy": tested}


def _returned(run: Path) -> list[Result]:
    """The networks that are finished, of a run that may be under way."""
    if not (run / "config.yaml").exists():
        raise RunError(no_run(run))
    folder = RunFolder(run, shared=True)
    try:
        found = [folder.read_result(identity) for identity in folder.finished_ids()]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{run} holds a damaged result ({error}); make it again with nat2 finetune {run}") from error
    if not found:
        raise RunError(f"{run} has not returned a network yet; go on with nat2 finetune {run}")
    return found


def _context(run: Path, folder: RunFolder, progress: Progress) -> RunContext:
    """What the run was made with, for its images."""
    plan, dataset = prepare(read_config(run / "config.yaml"), progress=progress)
    if dataset.fingerprint != fingerprint_of(run):
        raise RunError(
            f"the images in {plan.config.data} are no longer those of the run, from which 8 bits are calibrated"
        )
    return RunContext.of(plan, dataset, folder, progress, ALONE)


def has_files_for(network: Path, target: str) -> bool:
    """Whether the folder of an exported network holds the files for a target; what was interrupted does not count."""
    last = network / target / "preprocessing.json" if target in DEVICES else network / target
    return last.exists()


def check_target(target: str, onnxruntime_web: Path | str = "") -> None:
    """Raise if the files for a target could not be written and measured here.

    Raises:
        ConfigError: there is no such target, or its extra is not installed.
        RunError: what it needs cannot be downloaded.
    """
    if _device(target) is None:
        target_named(target).check(TargetOptions(str(onnxruntime_web)))


def _device(target: str) -> DeviceName | None:
    """The device of a target; None if it is another target, or none."""
    if target not in DEVICES:
        return None
    device: DeviceName = target
    check_device(device)
    return device


def _for_device(context: RunContext, device: DeviceName, target: Path, resolution: int, *, steps: int) -> None:
    """Write an exported network's files for a device, and say what was measured."""
    pipeline, test = context.pipeline, context.dataset.test
    images = TestImages.of(target / "model.onnx", pipeline.shipped(test, resolution), test.labels)
    calibration = pipeline.shipped(context.calibration, resolution)
    training = training_images(context, resolution, steps)
    samples = Samples(calibration, images, training, steps)
    for sentence in write_for_device(device, target, samples):
        context.progress.say(f"{target.name} for {device}: {sentence}")


def _write(
    folder: RunFolder,
    result: Result,
    target: Path,
    context: RunContext | None,
    *,
    device: DeviceName | None = None,
    images: RunContext | None = None,
    steps: int | None = None,
) -> Path:
    result, source = result.measured_on(folder.images()), folder.network(result.id)
    if target.resolve() != source.resolve():
        for name in _COPIED:
            write_bytes(target / name, (source / name).read_bytes())
    model = load(source)
    write_onnx(model, target, classes=describe(source)["classes"])
    write_program(model, target)
    if context is not None:
        accuracy = quantised(context, target, Arch.from_key(result.arch).resolution, steps=steps or 0)
        result = dataclasses.replace(result, int8_test_accuracy=accuracy)
        in_8_bits = Accuracy(accuracy, result.test_images)
        context.progress.say(
            f"{result.id}: {in_8_bits.percent} % of the test images in 8 bits, {result.tested.percent} % in "
            "floating point"
        )
    elif (source / "model-int8.onnx").exists() and target.resolve() != source.resolve():
        try:
            shutil.copyfile(source / "model-int8.onnx", target / "model-int8.onnx")
        except OSError as error:
            raise write_error(target, error) from error
    if not (target / "model-int8.onnx").exists():
        result = dataclasses.replace(result, int8_test_accuracy=None)
    if device is not None and images is not None:
        learning = _STEPS_IN_INTEGERS if steps is None else steps
        learning = learning if DEVICES[device].integers else 0
        _for_device(images, device, target, Arch.from_key(result.arch).resolution, steps=learning)
    result = dataclasses.replace(result, files=file_sizes(target))
    write_json(target / "result.json", dataclasses.asdict(result))
    return target
