"""The counters in a checkpoint of PyTorch Lightning 1.6, which it needs to continue."""

from __future__ import annotations

from typing import Any


def loops(epoch: int, step: int, plateau_steps: int, validations: int) -> dict[str, Any]:
    """Lightning's counters after `epoch` complete epochs."""
    two, idle, in_epoch, seen = "ready completed", _counters(0, 0), step // max(epoch, 1), int(validations > 0)
    zero_grad = _counters(step, in_epoch, "ready completed started")
    optimizer = {"step": _counters(step, in_epoch, two), "zero_grad": zero_grad}
    nested = ("", "batch_loop.", "batch_loop.optimizer_loop.", "batch_loop.manual_loop.", "val_loop.")
    fit = {"state_dict": {}} | {f"epoch_loop.{name}state_dict": {} for name in (*nested, "val_loop.epoch_loop.")}
    fit |= {
        "epoch_progress": _counters(epoch, epoch),
        "epoch_loop.batch_progress": {**_counters(step, in_epoch), "is_last_batch": step > 0},
        "epoch_loop.scheduler_progress": _counters(plateau_steps, 0, two),
        "epoch_loop.batch_loop.optimizer_loop.optim_progress": {
            "optimizer": optimizer,
            "optimizer_position": int(step > 0),
        },
        "epoch_loop.batch_loop.manual_loop.optim_step_progress": _counters(0, 0, two),
        "epoch_loop.val_loop.dataloader_progress": _counters(validations, seen, two),
        "epoch_loop.val_loop.epoch_loop.batch_progress": {**_counters(seen, seen), "is_last_batch": seen > 0},
    }
    unused = {"state_dict": {}, "epoch_loop.state_dict": {}, "dataloader_progress": _counters(0, 0, two)}
    evaluating = {**unused, "epoch_loop.batch_progress": {**idle, "is_last_batch": False}}
    predicting = {**unused, "epoch_loop.batch_progress": idle}
    return {"fit_loop": fit, "validate_loop": evaluating, "test_loop": evaluating, "predict_loop": predicting}


def _counters(total: int, current: int, names: str = "ready completed started processed") -> dict[str, Any]:
    return {"total": dict.fromkeys(names.split(), total), "current": dict.fromkeys(names.split(), current)}
