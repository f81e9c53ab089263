"""Names of thetas that ship on the command line, and `comm-lopt pretrained`."""

import shutil

import pytest

from comm_lopt.cli import main
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.theta import ThetaError, theta_file

pytestmark = pytest.mark.usefixtures("ordinary_promotion")


def test_name_stands_for_a_theta_with_the_rate_of_its_card(small, small_folder):
    method = method_of_theta(small)
    assert (method.label, method.theta) == ("LOptR", theta_file(small_folder))
    # The header has an interval, whose middle is another.
    assert method.hparams["local_learning_rate"] == (0.1, "theta's card")
    given = method_of_theta(f"mine={small}:local_learning_rate=0.3")
    assert given.label == "mine" and given.hparams["local_learning_rate"] == (0.3, "given")
    # A rate that was chosen for SGD says nothing about AdamW.
    other = method_of_theta(f"{small}:local_opt=local_adamw")
    assert other.hparams["local_learning_rate"].source == "default"


def test_folder_with_a_card_has_the_rate_of_its_card_and_is_checked(small_folder, tmp_path):
    copy = shutil.copytree(small_folder, tmp_path / "copy")
    assert method_of_theta(str(copy)).hparams["local_learning_rate"] == (0.1, "theta's card")
    (copy / "card.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ThetaError, match="the card has format version None"):
        method_of_theta(str(copy))


def test_list_has_what_ships(small, capsys):
    assert main(["pretrained"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(small)]
    assert line.split()[1:5] == ["LOptR", "67", "local_sgd", "0.1"]
    assert "digits_mlp (K = 2, H = 2, local_sgd, γ drawn from 0.05 to 0.5)" in line


def test_card_is_shown(small, small_folder, capsys):
    assert main(["pretrained", small]) == 0
    readme = (small_folder / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == readme.partition("\n---\n\n")[2]


def test_theta_is_copied_with_its_card_and_overwrites_nothing(small, small_folder, tmp_path):
    out_dir = tmp_path / "mine"
    command = ["pretrained", small, "--out_dir", str(out_dir)]
    assert main(command) == 0
    for path in small_folder.iterdir():
        assert (out_dir / path.name).read_bytes() == path.read_bytes()
    (out_dir / "card.json").unlink()
    (out_dir / "theta.safetensors").write_bytes(b"mine")
    assert main(command) == 2
    assert (out_dir / "theta.safetensors").read_bytes() == b"mine"
    assert not (out_dir / "card.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lopt-r"], "did you mean 'lopt-r-7'?"),
        (["--out_dir", "mine"], "give its name as well"),
    ],
)
def test_what_cannot_be_shown_says_what_to_do(
    small, arguments, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrained", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_theta_without_a_card_says_so(small_folder, tmp_path, capsys):
    shutil.copy(small_folder / "theta.safetensors", tmp_path)
    assert main(["pretrained", str(tmp_path)]) == 2
    assert "has no card" in capsys.readouterr().err
