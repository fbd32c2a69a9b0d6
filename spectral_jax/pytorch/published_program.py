"""Run the published PyTorch network, from a clone of its repository, on given meshes: a program, not a module.

    python published_program.py CHECKOUT                        # prints what runs it
    python published_program.py CHECKOUT TASK.npz ANSWER.npz    # prints one line for each piece of work

`published.py` starts it in the interpreter that the user chose, which need not have this package or JAX. So it imports
only torch, NumPy and the standard library, and avoids what Python 3.8 does not have. It reads and writes no pickle.
"""

import functools
import importlib
import inspect
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch


def load_network(checkout):
    """The published class, and in words what it runs on."""
    sys.path[0] = checkout  # was the folder of this program, where lightning.py is not the package of this name
    words = [f"PyTorch {torch.__version__}"]
    try:
        words.append(f"Lightning {importlib.import_module('pytorch_lightning').__version__}")
    except Exception as error:  # of many kinds, when it is older than torch or Python
        lightning = types.ModuleType("pytorch_lightning")
        vars(lightning)["LightningModule"] = torch.nn.Module  # what the network inherits from it, apart from `log`
        sys.modules["pytorch_lightning"] = lightning
        absent = getattr(error, "name", None) == "pytorch_lightning"
        words.append("without Lightning" if absent else f"without Lightning: {error}".splitlines()[0])
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau
    if "verbose" not in inspect.signature(rule).parameters:  # printed the reductions, and is gone from new versions
        plain = functools.partial(without_verbose, rule)
        torch.optim.lr_scheduler.ReduceLROnPlateau = plain
    module = importlib.import_module("models.LearnedPooling")
    if Path(checkout).resolve() not in Path(str(module.__file__)).resolve().parents:
        raise ImportError(f"models.LearnedPooling is {module.__file__}, not that of {checkout}")
    return module.LearnedPooling, ", ".join(words)


def without_verbose(rule, *arguments, verbose=False, **options):
    """The rule, without an option that it no longer has."""
    return rule(*arguments, **options)


def keep(seen, name, _, inputs):
    """A hook that keeps the input of a layer."""
    seen[name] = inputs[0]


def log(logged, name, value, *_, **__):
    """What stands in for Lightning's logging: keeps the latest value."""
    logged[name] = float(value)


def compare(model, layers, inputs, vertices, modes):
    """Inputs of layers, results and gradients for one batch."""
    seen = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(functools.partial(keep, seen, name)) for name in layers
    ]
    decoded = model(inputs)
    for hook in hooks:
        hook.remove()
    loss = model.training_step((None, inputs), 0)["loss"]
    loss.backward()
    with torch.no_grad():
        errors = model.test_step((None, inputs, vertices), 0)
    found = {f"seen/{name}": tensor for name, tensor in seen.items()}
    found.update({"coefficients": decoded, "vertices": modes @ decoded, "loss": loss})
    found["error in mm"] = 1000 * torch.tensor(errors, dtype=inputs.dtype)
    found.update({f"gradient/{name}": parameter.grad for name, parameter in model.named_parameters()})
    return found


def train(model, task, inputs, vertices, logged, report):
    """Train on the meshes in their order, with the optimiser and the rule of the published code.

    What Lightning does between them is done here: the rule is applied after every epoch with the latest validation
    error, which is `logged`, and not before the first validation.
    """
    (optimiser,), (rule,) = model.configure_optimizers()
    batches = inputs.split(task["batch_size"])
    losses, rates, validations = [], [], []
    for step in range(task["steps"]):
        rates.append(optimiser.param_groups[0]["lr"])
        loss = model.training_step((None, batches[step % len(batches)]), step)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
        epoch, left = divmod(step + 1, len(batches))
        if left == 0:
            if epoch % task["validate_every"] == 0:
                with torch.no_grad():
                    model.validation_step((None, inputs, vertices), 0)
                validations.append(logged[rule["monitor"]])
            if rule["monitor"] in logged:
                rule["scheduler"].step(logged[rule["monitor"]])
        report()
    found = {f"trained/{name}": parameter for name, parameter in model.named_parameters()}
    with torch.no_grad():
        found["trained coefficients"] = model(inputs)
    figures = {"losses": losses, "rates": rates, "validations": validations}
    return {**found, **{name: torch.tensor(values, dtype=torch.float64) for name, values in figures.items()}}


def run(network, given, report):
    """All that is asked, in both precisions: arrays by precision and name."""
    task, answer = json.loads(str(given["task"])), {}
    for dtype in ("float32", "float64"):
        kind = getattr(torch, dtype)
        tensors = {name: torch.tensor(given[name], dtype=kind) for name in ("coefficients", "modes", "vertices")}
        options = dict(task["options"], device="cpu", loss=torch.nn.MSELoss(), evecs=tensors["modes"])
        model, logged = network(options).to(kind), {}
        model.log = functools.partial(log, logged)
        weights = {name: torch.tensor(given[f"weights/{name}"]) for name in task["weights"]}
        model.load_state_dict(weights)
        found = compare(model, task["layers"], tensors["coefficients"], tensors["vertices"], tensors["modes"])
        report()
        if task["steps"]:
            found.update(train(model, task, tensors["coefficients"], tensors["vertices"], logged, report))
        answer.update({f"{dtype}/{name}": tensor.detach().numpy() for name, tensor in found.items()})
    return answer


def main(checkout, *files):
    shown, sys.stdout = sys.stdout, sys.stderr  # the published code prints, too
    network, words = load_network(checkout)
    if not files:
        print(words, file=shown)
        return
    task, answer = files
    with np.load(task, allow_pickle=False) as given:
        found = run(network, given, functools.partial(print, "done", file=shown, flush=True))
    np.savez(answer, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
