"""Options by their published names."""

import pytest

from spectral_jax.cli import main, parse
from spectral_jax.commands.train import Train

PUBLISHED = (
    "--job_id=SAE --path data/mine --nb_freq 512 --size_latent=8 --size_conv 5 --activation_func ReLU "
    "--num_iterations 70 --train_batch_size 32 --learning_rate 1e-3 --check_val_every_n_epoch 5 --device cuda "
    "--num_workers 4 --test_batch_size 64 --model_type LearnedPooling --loss_type=MSE"
)
OURS = (
    "--run runs/SAE --data data/mine --modes 512 --latent-size 8 --conv-size 5 --activation ReLU "
    "--epochs 70 --batch-size 32 --learning-rate 1e-3 --validate-every 5"
)


def test_train_takes_the_published_names_of_options(capsys):
    assert parse(["train", *PUBLISHED.split()]) == parse(["train", *OURS.split()])
    notes = " ".join(capsys.readouterr().err.split())
    for note in (
        "--nb_freq is called --modes here",
        "--job_id is called --run here: --run runs/SAE",
        "--device cuda has no",
    ):
        assert note in notes
    assert "learning_rate" not in notes  # it is our name too


def test_our_own_options_give_no_note(capsys):
    assert isinstance(parse(["train", "--latent_size", "8", "--run", "a_b"]), Train)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss_type", "L1"], "--loss_type is L1, expected MSE"),
        (["--model_type=Template"], "--model_type is Template, expected LearnedPooling"),
        (["--nb_freq"], "--nb_freq needs a value"),
        (["--nb_freq", "--size_latent", "8"], "--nb_freq needs a value"),
    ],
)
def test_what_has_no_counterpart_is_refused(arguments, message, capsys):
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
